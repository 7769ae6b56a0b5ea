"""The shortcut: tails that are put together from what earlier renders showed, in place of rendering again."""
