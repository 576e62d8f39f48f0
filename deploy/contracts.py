"""A contract of import-linter's kind that it doesn't bring: which packages are pure.

Pure is meant whole: not a list of packages that may not be imported, which the next one would
slip past, but the standard library and nothing else.
"""

from __future__ import annotations

import sys
from typing import cast

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class StandardLibraryOnly(Contract):
    """`packages` import themselves and the standard library."""

    type_name = "standard_library_only"

    packages = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        packages = cast(list[str], self.packages)  # by now the field is the list it was read as
        pure = sys.stdlib_module_names | set(packages)
        impure = [
            (importer, imported)
            for package in packages
            for importer in sorted({package} | graph.find_descendants(package))
            for imported in sorted(graph.find_modules_directly_imported_by(importer))
            if imported.partition(".")[0] not in pure
        ]
        return ContractCheck(kept=not impure, metadata={"impure": impure})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for importer, imported in check.metadata["impure"]:
            output.print_error(f"{importer} imports {imported}")
