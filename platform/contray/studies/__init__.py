"""Studies: claims of the field's papers, tested. The forms that a study's file states its claim in (claims), and what seeds say of it (verdict)."""

from .claims import Above, Agrees, At, Collapse, Mean, Minus, Order, Peak, Same

__all__ = ["Above", "Agrees", "At", "Collapse", "Mean", "Minus", "Order", "Peak", "Same"]
