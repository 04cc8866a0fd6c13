"""From the IR that passes see to the form that a file holds: canonical float, or int8."""
