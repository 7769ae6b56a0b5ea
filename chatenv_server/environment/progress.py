"""How far an episode is: its steps, turns and sampled tokens, whether it is over, and what its limits leave it.

The limits are options of the episode. The length of the stream, which one of them counts, is the log's.
"""

from __future__ import annotations

from chatenv_client.models import Failure
from chatenv_server.environment.options import EpisodeOptions
from chatenv_server.values import value


@value
class Progress:
    """How far an episode is; replaced as a whole."""

    step_count: int = 0
    terminated: bool = False
    truncated: bool = False
    failure: Failure | None = None
    turn_count: int = 0
    """Turns that the model has ended."""
    sampled_tokens: int = 0
    turn_open: bool = False
    """Whether the model's turn was aborted, and is to go on."""

    @property
    def is_over(self) -> bool:
        """Whether the episode ended: by itself, cut off, or because something broke."""
        return self.terminated or self.truncated or self.failure is not None

    def is_at_limit(self, options: EpisodeOptions, tokens: int) -> bool:
        """Whether the episode is truncated, its stream being so many tokens long."""
        return (
            (options.max_steps is not None and self.step_count >= options.max_steps)
            or (options.max_tokens is not None and tokens >= options.max_tokens)
            or (options.max_turns is not None and self.turn_count >= options.max_turns)
            or (options.max_sampled_tokens is not None and self.sampled_tokens >= options.max_sampled_tokens)
        )

    def turns_left(self, options: EpisodeOptions) -> int | None:
        """Turns that the model may still end; None: any number."""
        most = options.max_turns
        return None if most is None else max(0, most - self.turn_count)

    def tokens_left(self, options: EpisodeOptions, tokens: int) -> int | None:
        """Tokens that may still be sampled, the stream being so many tokens long; None: any number."""
        if options.max_tokens is None and options.max_sampled_tokens is None:
            return None
        left = [
            most - used
            for most, used in ((options.max_tokens, tokens), (options.max_sampled_tokens, self.sampled_tokens))
            if most is not None
        ]
        return max(0, min(left))
