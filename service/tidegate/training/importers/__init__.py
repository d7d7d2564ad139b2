"""Importers: recurrent networks trained elsewhere, as model packages, accepted only when they predict as their source.

`torch_file` (with `torch_head`) and `onnx_file` read a file into a `Network`; `foreign` takes any ONNX graph whose
states are declared, as it is. `writing` gives the numbers their names, lets `agreement` compare, and writes the
version.
"""
