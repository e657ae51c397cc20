"""Pages are tested; what builds them is not imported for that."""

collect_ignore_glob = ["conf.py", "_ext/*"]
