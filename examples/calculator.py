"""Arithmetic with a calculator: the model calls a tool, which runs in the server. `make calculator` plays it.

Serve it with `PYTHONPATH=examples chatenv-server --task calculator:Arithmetic`.
"""

from __future__ import annotations

import ast
import json
import operator
import random
import re
from collections.abc import Sequence

from chatenv_client import Message
from chatenv_server import Answer, ModelTurn, Opening, TaskEpisode, ToolTask

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
LONGEST = 200
"""Characters of an expression."""


def calculate(expression: str) -> float:
    """Calculate an arithmetic expression.

    Args:
        expression: Numbers with + - * / and parentheses, such as "2 * (3 + 4)".
    """
    if len(expression) > LONGEST:
        raise ValueError(f"an expression has at most {LONGEST} characters")
    return value_of(ast.parse(expression.strip(), mode="eval").body)


def value_of(node: ast.expr) -> float:
    """The value of a parsed expression. What it raises, the model is told."""
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return float(OPERATORS[type(node.op)](value_of(node.left), value_of(node.right)))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -value_of(node.operand)
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return float(node.value)
    raise ValueError("only numbers, + - * / and parentheses can be calculated")


class Arithmetic(ToolTask):
    """The model answers a question of arithmetic.

    The question comes from a row, `{"question": ..., "solution": ...}`, or else from the seed.
    """

    tools = (calculate,)
    max_rounds = 4

    def __init__(self) -> None:
        self.solution = 0.0

    def begin(self, episode: TaskEpisode) -> Opening:
        """Ask the question."""
        if episode.row is not None:
            question, self.solution = str(episode.row["question"]), float(episode.row["solution"])
        else:
            draw = random.Random(episode.seed)
            a, b, c = (draw.randint(2, 99) for _ in range(3))
            question, self.solution = f"What is {a} * ({b} + {c})?", float(a * (b + c))
        return Opening(messages=[{"role": "user", "content": question}])

    def score(self, turn: ModelTurn) -> Answer:
        """Reward the right answer, and a little the use of the tool."""
        numbers = re.findall(r"-?[0-9]{1,15}(?:\.[0-9]{1,15})?", turn.text.replace(",", ""))
        right = bool(numbers) and abs(float(numbers[-1]) - self.solution) < 1e-6
        rewards = {"right": float(right), "used the tool": float(self.rounds > 0)}
        return Answer(rewards=rewards, weights={"used the tool": 0.1}, terminated=True)


def asking_the_tool(messages: Sequence[Message]) -> str:
    """Stand in for a model: have the tool calculate what the question asks, then say what it said."""
    last = messages[-1]
    if last["role"] == "tool":
        return f"It is {last.get('content')}."
    expression = str(last.get("content")).removeprefix("What is ").removesuffix("?")
    call = json.dumps({"name": "calculate", "arguments": {"expression": expression}})
    return f"Let me see.\n<tool_call>\n{call}\n</tool_call>"


def main() -> None:
    """Play an episode."""
    from stand_in import play

    play(Arithmetic, asking_the_tool, seed=7)


if __name__ == "__main__":
    main()
