"""Quality at the door: what a careful person would want to know about pictures before training on them."""
