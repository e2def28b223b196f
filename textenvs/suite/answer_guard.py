"""Keeps a model's text away from verifiers that would run it as a program.

Some verifiers of reasoning-gym 0.1.25 hand the answer to Python's `eval`, to
`sympy.parse_expr` (which calls `eval` with every built-in function in reach), or to parsers
whose time has no bound. A policy that explores will sooner or later write
`9**9**9` there, and nothing keeps it from writing worse. `harmless` says whether an answer
may be shown to such a verifier.
"""

import ast
import math
import re
from collections.abc import Callable

LARGEST_BITS = 1024
"""Of any number an expression may come to while it is evaluated."""
MOST_NODES, DEEPEST_CALLS = 256, 3
LONGEST_FORMULA = 256
"""In characters: the parser of propositional_logic takes minutes for a few thousand."""
FUNCTIONS = frozenset(
    "sin cos tan cot sec csc asin acos atan sinh cosh tanh exp log ln sqrt Abs erf Integral".split()
)
"""What an expression may call: none of these computes a large number from a small one, and
an `Integral` stays as it is written."""

LITERAL_NODES = (
    ast.Expression,
    ast.Constant,
    ast.List,
    ast.Tuple,
    ast.Set,
    ast.Dict,
    ast.Name,
    ast.Load,
    ast.UnaryOp,
    ast.USub,
    ast.UAdd,
)
LONG_EXPONENT = re.compile(r"[eE][+-]?[\d_]{3}")
LONG_COUNT = re.compile(r"\d{3}")
EXPRESSION_TEXT = re.compile(r"[A-Za-z0-9\s+\-*/().,]*")


def harmless(dataset: str, answer: str) -> bool:
    """Return whether an answer may be shown to the verifier of a dataset of reasoning-gym."""
    check = CHECKS.get(dataset)
    return check is None or check(answer)


def is_literal(text: str) -> bool:
    """Return whether `eval` of a text does no more than build lists of constants, or fail.

    A text that is no Python expression passes: `eval` only raises.
    """
    for form in {text, text.strip()}:
        try:
            tree = ast.parse(form, mode="eval")
        except (SyntaxError, ValueError):  # ValueError: a null byte
            continue
        except (RecursionError, MemoryError):
            return False
        if not all(isinstance(node, LITERAL_NODES) for node in ast.walk(tree)):
            return False
    return True


def is_small_expression(text: str) -> bool:
    """Return whether a text is arithmetic that sympy can evaluate without harm.

    Numbers, names, + - * / **, brackets and the functions of `FUNCTIONS`; at most
    `MOST_NODES` parts, no number on the way longer than `LARGEST_BITS` bits, and calls not
    within calls deeper than `DEEPEST_CALLS`, which sympy simplifies for minutes.
    """
    if not EXPRESSION_TEXT.fullmatch(text) or LONG_EXPONENT.search(text):
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
        return (
            sum(1 for _ in ast.walk(tree)) <= MOST_NODES
            and _bits(tree.body) <= LARGEST_BITS
            and _call_depth(tree) <= DEEPEST_CALLS
        )
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _bits(node: ast.expr) -> float:
    """Return a bound on the bits of the numbers that evaluating a node builds.

    Raises:
        ValueError: if the node is no arithmetic.
    """
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return float(node.value.bit_length()) if isinstance(node.value, int) else 64.0
    if isinstance(node, ast.Name):
        return 1.0
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        return _bits(node.operand)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id in FUNCTIONS and node.args:
            return 1.0 + sum(_bits(argument) for argument in node.args)
    if isinstance(node, ast.BinOp):
        left, right = _bits(node.left), _bits(node.right)
        if isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div)):
            return left + right + 1.0
        if isinstance(node.op, ast.Pow):
            # An exponent of n bits multiplies the length by up to 2**n; 16 is too many anyway.
            return max(left, 1.0) * 2.0**right if right <= 16.0 else math.inf
    raise ValueError(f"{type(node).__name__} is no arithmetic")


def _call_depth(node: ast.AST) -> int:
    """Return how many calls stand within each other at most."""
    inside = max((_call_depth(child) for child in ast.iter_child_nodes(node)), default=0)
    return inside + isinstance(node, ast.Call)


def is_short_formula(text: str) -> bool:
    """Return whether a text has at most `LONGEST_FORMULA` characters."""
    return len(text) <= LONGEST_FORMULA


def has_short_exponent(text: str) -> bool:
    """Return whether no number of a text has an exponent of three digits or more."""
    return LONG_EXPONENT.search(text) is None


def has_short_counts(text: str) -> bool:
    """Return whether no number of a text has three digits or more."""
    return LONG_COUNT.search(text) is None


CHECKS: dict[str, Callable[[str], bool]] = {
    # eval of the answer
    "binary_matrix": is_literal,
    "n_queens": is_literal,
    "spiral_matrix": is_literal,
    "string_insertion": is_literal,
    # sympy.parse_expr of the answer
    "countdown": is_small_expression,
    "intermediate_integration": is_small_expression,
    "polynomial_multiplication": is_small_expression,
    "puzzle24": is_small_expression,
    "simple_integration": is_small_expression,
    # Fraction("1e999999999") builds the number
    "coin_flip": has_short_exponent,
    # moves "R999999999" and "A+999999999" are made one by one
    "rubiks_cube": has_short_counts,
    "rush_hour": has_short_counts,
    "propositional_logic": is_short_formula,
}
"""Dataset -> what its answers must pass before the verifier sees them."""
