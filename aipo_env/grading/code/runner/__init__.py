"""The programs on the far side of the wall; only the standard library, importable without ``aipo_env``.

The parent starts ``supervisor`` as ``python -I -S``. The supervisor forks the ``zygote``, and the zygote forks
one process per test, which runs ``submission``. None of them is ever told an expected output.
"""
