"""Parts of a policy: adapters, critics, what trains and what a copy may share, sampling."""
