"""The science: one file per method, pure torch. The file's name is the method's name; files that start with `_` are shared parts."""
