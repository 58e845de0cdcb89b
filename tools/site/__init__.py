"""The documentation site: what MkDocs cannot do by itself.

make docs                                       # builds it into build/site
python -m tools.site.executed docs/start.md     # runs the code of pages, without MkDocs
"""
