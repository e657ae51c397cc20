"""Examples of docstrings use names that are there, also the examples that are slow to run."""

import ast
import builtins
import doctest
import importlib
import pkgutil

import mu_jax as mu


def unknown_names(source, known):
    """Names that a program reads, and neither makes nor finds in `known`."""
    nodes = list(ast.walk(ast.parse(source)))
    names = of(nodes, ast.Name)
    made = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    made |= {(node.asname or node.name).partition(".")[0] for node in of(nodes, ast.alias)}
    made |= {node.name for node in of(nodes, ast.FunctionDef | ast.ClassDef)}
    made |= {node.arg for node in of(nodes, ast.arg)}
    read = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    return sorted(read - made - set(known) - set(vars(builtins)))


def of(nodes, kinds):
    return [node for node in nodes if isinstance(node, kinds)]


def test_names_in_examples_are_there():
    lost = []
    for found in pkgutil.walk_packages(mu.__path__, "mu_jax."):
        module = importlib.import_module(found.name)
        for test in doctest.DocTestFinder().find(module, found.name):
            source = "".join(example.source for example in test.examples)
            lost += [f"{test.name}: {name}" for name in unknown_names(source, test.globs)]
    assert lost == []


def test_a_name_that_is_not_there_would_be_seen():
    source = "import a.b as c\ndef f(x): return x + y\n[z for z in c]\n(w := len(f))\nw, v"
    assert unknown_names(source, {"v"}) == ["y"]
