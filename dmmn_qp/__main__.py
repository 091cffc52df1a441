"""`python -m dmmn_qp` is the command line, as launchers such as torchrun want it."""

from dmmn_qp.cli import run

if __name__ == "__main__":
    run()
