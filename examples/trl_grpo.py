"""TRL's own GRPOTrainer on `textenvs/ContextSelect-v0` with the embedded model, offline.

Needs TRL: `pip install "trl>=1.16"`. The number of updates is the argument; 20 take a few
minutes on a CPU.
"""

import sys

from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

import agents
from textenvs.bridges.trl import prompt_dataset, reward_function
from textenvs.models import load_causal_lm, model_folder

ID = "textenvs/ContextSelect-v0"
TASK = {"n_items": 4, "max_prompt_tokens": 128, "reward": "context-match-f1"}
updates = int(sys.argv[1]) if len(sys.argv) > 1 else 20

model = load_causal_lm("tiny-lm")
tokenizer = AutoTokenizer.from_pretrained(model_folder("tiny-lm"))
reward = reward_function(ID, processing_class=tokenizer, **TASK)
trainer = GRPOTrainer(
    model,
    reward_funcs=reward,
    train_dataset=prompt_dataset(ID, max_prompts=1_000, **TASK),
    processing_class=tokenizer,
    args=GRPOConfig(
        output_dir="runs/trl-grpo-example",
        max_steps=updates,
        per_device_train_batch_size=32,
        num_generations=8,
        max_completion_length=reward.max_new_tokens,
        learning_rate=1e-4,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        report_to="none",
    ),
)


def report(when: str) -> None:
    """Print how often the model's answers to held-out prompts are right."""
    metrics = agents.evaluate(agents.CausalLMPolicy(model), ID, 100, env_kwargs=TASK)
    mean, low, high = metrics["correct"]
    print(f"{when:<7}correct {mean:.3f}  [{low:.3f}, {high:.3f}]")


report("before")
trainer.train()
report("after")
