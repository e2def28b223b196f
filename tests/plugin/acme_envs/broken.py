"""A plug-in that cannot be imported."""

raise RuntimeError("Acme forgot to charge the batteries")
