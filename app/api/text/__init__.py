"""Forms of an execution for people: an ASCII Gantt chart, a Markdown summary, a Mermaid graph."""
