"""Episodes as people look at them: an HTML page of one, and of many at a glance. docs/viewing.md shows them.

A page is one file: its data, styles and script stand in it, it loads nothing, and nothing that an episode holds can run
in it. Needs jinja2, the extra `view`.
"""

from chatenv_client.viewing.episode_data import Relative, View
from chatenv_client.viewing.pages import episode_page, run_page
from chatenv_client.viewing.run_data import EpisodeRow, row_of
from chatenv_client.viewing.token_texts import texts_of

__all__ = [
    "EpisodeRow",
    "Relative",
    "View",
    "episode_page",
    "row_of",
    "run_page",
    "texts_of",
]
