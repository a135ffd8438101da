"""Find the user's module: ``package.module:factory`` or ``file.py:factory``."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from torch import nn

from onnxopt.core import load_object
from onnxopt.errors import UsageError


def load_module(words: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The module that the words name, in evaluation mode.

    Args:
        words: a function that returns a module, a class, or a module itself.
        arguments: keyword arguments of the function or class.

    Raises:
        UsageError: if it cannot be imported or built, is no module, or takes no arguments.
    """
    found = load_object(words)
    if not isinstance(found, nn.Module):
        if not callable(found):
            raise UsageError(f"{words} is a {type(found).__name__}; give a torch.nn.Module, its class, or a function")
        found = build(words, found, arguments)
    elif arguments:
        raise UsageError(f"{words} is a module already: it takes no --arg")
    if not isinstance(found, nn.Module):
        raise UsageError(f"{words} gives a {type(found).__name__}, not a torch.nn.Module")
    return found.eval()


def build(words: str, factory: Any, arguments: Mapping[str, Any]) -> Any:
    """Call a factory.

    Raises:
        UsageError: with what it raised.
    """
    try:
        return factory(**arguments)
    except Exception as error:  # the user's code: it can raise anything
        raise UsageError(f"{words} cannot be built: {type(error).__name__}: {error}") from error


def literals(words: Mapping[str, str]) -> dict[str, Any]:
    """``classes=10``, ``sizes=(1,2)``, ``act=gelu``: Python literals, else the word itself."""
    return {name: _literal(value) for name, value in words.items()}


def _literal(word: str) -> Any:
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word
