"""The public names, and where each is from."""

from rinsc.__about__ import __version__ as __version__
from rinsc.backends.onnx import OnnxForm as OnnxForm
from rinsc.backends.onnx import Session as Session
from rinsc.backends.onnx import TowersSession as TowersSession
from rinsc.backends.onnx import to_onnx as to_onnx
from rinsc.backends.torch import load_weights as load_weights
from rinsc.backends.torch import save_weights as save_weights
from rinsc.backends.torch import to_torch as to_torch
from rinsc.cost import FlopConvention as FlopConvention
from rinsc.cost import cost_report as cost_report
from rinsc.cost import match_compute as match_compute
from rinsc.errors import RinscError as RinscError
from rinsc.evaluation.evaluate import evaluate as evaluate
from rinsc.evaluation.scan import scan as scan
from rinsc.evaluation.scan_report import Scan as Scan
from rinsc.fingerprints import fingerprint as fingerprint
from rinsc.graph import build_graph as build_graph
from rinsc.graph import unroll as unroll
from rinsc.graph.law import draw_rounds as draw_rounds
from rinsc.layers import register_kind as register_kind
from rinsc.sampling import Sampling as Sampling
from rinsc.spec import ModelSpec as ModelSpec
from rinsc.spec import TowersSpec as TowersSpec
from rinsc.spec import model_spec as model_spec
from rinsc.spec import towers_spec as towers_spec
from rinsc.study.laws import fit_laws as fit_laws
from rinsc.syntax import canonical as canonical
from rinsc.syntax import parse as parse
from rinsc.training.start import train as train
from rinsc.verbs.bench import bench as bench
from rinsc.verbs.bench_pictures import PicturesReport as PicturesReport
from rinsc.verbs.export import export as export
from rinsc.verbs.forms import Exported as Exported
from rinsc.verbs.forms import HfForm as HfForm
from rinsc.verbs.forms import PlainForm as PlainForm
from rinsc.verbs.forms import TorchForm as TorchForm
from rinsc.verbs.generate import Generation as Generation
from rinsc.verbs.generate import generate as generate
from rinsc.verbs.import_model import import_model as import_model
from rinsc.verbs.reports import BenchReport as BenchReport
from rinsc.verbs.retrofit import Retrofitted as Retrofitted
from rinsc.verbs.retrofit import retrofit as retrofit
from rinsc.verification import verify as verify

__all__: list[str]
