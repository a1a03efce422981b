"""The contracts behind `metarlgym.check_env`: `subject` and what follows it look, the other modules judge.

A contract is a function that takes a `Subject` and returns what is wrong and how to mend it in one line, or None. It
uses the public interface only, so it holds for a `Trial` as well.
"""
