"""What the engines' rows become: tables, csv, json, jsonl, and one self-contained HTML page."""
