"""The face for programmers: what one types in a notebook, as ``import dmmn_qp`` offers it.

Paths may be texts. Nothing is printed unless a `Reporter` is given; what deserves a warning is a Python warning
(`DmmnQpWarning`), and what is wrong is a `DmmnQpError`. Options are those of the commands, by their names in the
configuration file. Heavy libraries are loaded by the first call that needs them.
"""

from dmmn_qp.engines.cores import settle_libraries

settle_libraries(is_ours=False)  # of use where torch is not loaded yet
