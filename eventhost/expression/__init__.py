"""Jinja over events: `when` conditions and `{{ … }}` templates. Only configuration is ever a template."""

from eventhost.expression.condition import Condition
from eventhost.expression.engine import VARIABLES
from eventhost.expression.source import ExpressionError
from eventhost.expression.template import Template

__all__ = ["VARIABLES", "Condition", "ExpressionError", "Template"]
