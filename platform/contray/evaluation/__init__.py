"""Evaluation of frozen features: k-NN, linear probes and the protocol that compares encoders."""

from .knn import knn_predict, knn_top1
from .linear import LinearProbes, ProbeResult, linear_probe
from .protocol import Features, encode, measure, pixels, report

__all__ = [
    "Features",
    "LinearProbes",
    "ProbeResult",
    "encode",
    "knn_predict",
    "knn_top1",
    "linear_probe",
    "measure",
    "pixels",
    "report",
]
