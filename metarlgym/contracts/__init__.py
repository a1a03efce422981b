"""The contracts behind `metarlgym.check_env`.

`subject`, `leaks` and `subprocesses` collect evidence; the others define the contracts. A contract is a function that
takes a `Subject` and returns one line with the problem and its fix, or None. It uses only the public interface, so it
applies to a `Trial` as well.
"""
