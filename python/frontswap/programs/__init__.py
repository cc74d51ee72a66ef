"""Whole programs within a budget: what `frontswap run`, `set` and `stats` are made of.

`executable` finds the program and says whether we can be loaded into it, `settings` is what was asked for, `supervisor`
starts the program and waits for it, `report` puts what happened into words. The memory itself is managed inside the
program, by the library that is loaded into it; nothing here touches a page.
"""
