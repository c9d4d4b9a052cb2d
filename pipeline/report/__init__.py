"""What is shown: charts, tables, findings, overlays, the report page, and limits (gates)."""
