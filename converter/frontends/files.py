"""Model files of scikit-learn: what may be loaded, and on whose word."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Final

import joblib
import skops.io
from sklearn.exceptions import InconsistentVersionWarning

from edge_agent.contract.errors import ConfigError

# Reviewed: plain data holders of scikit-learn and numpy whose construction runs no code of the
# file's choosing, this project's own transformers, and the boosting libraries' estimators, which
# hold the model in the library's own format.
REVIEWED: Final = frozenset(
    {
        "catboost.core.CatBoostClassifier",
        "catboost.core.CatBoostRegressor",
        "collections.OrderedDict",
        "collections.defaultdict",
        "converter.features.Flatten",
        "converter.features.WindowFeatures",
        "functools.partial",
        "lightgbm.basic.Booster",
        "lightgbm.sklearn.LGBMClassifier",
        "lightgbm.sklearn.LGBMRegressor",
        "numpy.dtype",
        "sklearn._loss.link.Interval",
        "sklearn._loss.loss.HalfBinomialLoss",
        "sklearn._loss.loss.HalfGammaLoss",
        "sklearn._loss.loss.HalfMultinomialLoss",
        "sklearn._loss.loss.HalfPoissonLoss",
        "sklearn._loss.loss.HalfSquaredError",
        "sklearn._loss.loss.HalfTweedieLoss",
        "sklearn._loss.loss.HalfTweedieLossIdentity",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.feature_selection._univariate_selection.chi2",
        "sklearn.feature_selection._univariate_selection.f_classif",
        "sklearn.feature_selection._univariate_selection.f_regression",
        "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
        "sklearn.gaussian_process.kernels.ConstantKernel",
        "sklearn.gaussian_process.kernels.Matern",
        "sklearn.gaussian_process.kernels.Product",
        "sklearn.gaussian_process.kernels.RBF",
        "sklearn.gaussian_process.kernels.RationalQuadratic",
        "sklearn.gaussian_process.kernels.Sum",
        "sklearn.gaussian_process.kernels.WhiteKernel",
        "sklearn.metrics._classification.balanced_accuracy_score",
        "sklearn.metrics._dist_metrics.ChebyshevDistance64",
        "sklearn.metrics._dist_metrics.EuclideanDistance64",
        "sklearn.metrics._dist_metrics.ManhattanDistance64",
        "sklearn.metrics._dist_metrics.MinkowskiDistance64",
        "sklearn.metrics._scorer._CurveScorer",
        "sklearn.metrics._scorer._Scorer",
        "sklearn.neighbors._ball_tree.BallTree",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.tree._tree.Tree",
        "sklearn.utils._bunch.Bunch",
        "sklearn.utils._metadata_requests.MetadataRequest",
        "sklearn.utils._metadata_requests.MethodMetadataRequest",
        "sklearn.utils.validation.check_array",
        "xgboost.core.Booster",
        "xgboost.sklearn.XGBClassifier",
        "xgboost.sklearn.XGBRFClassifier",
        "xgboost.sklearn.XGBRFRegressor",
        "xgboost.sklearn.XGBRegressor",
    }
)
_LIBRARIES: Final = ("catboost", "lightgbm", "xgboost")  # each is an extra of the same name
_PICKLES: Final = (".joblib", ".pkl", ".pickle")


def load_estimator(
    path: Path, *, trust: tuple[str, ...], consent_pickle: bool
) -> tuple[Any, tuple[str, ...]]:
    """The estimator in a file, and notes about versions. Other warnings pass.

    Args:
        path: the file.
        trust: full names of further classes that a ``.skops`` file may hold.
        consent_pickle: unpickling is agreed to.

    Raises:
        ConfigError: see :func:`converter.frontends.import_model`.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such model file")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if path.suffix == ".skops":
            estimator = _load_skops(path, trust)
        elif path.suffix in _PICKLES:
            estimator = _unpickle(path, consent=consent_pickle)
        else:
            raise ConfigError(
                f"{path}: models are .skops files, or .joblib or .pkl with consent; save yours by "
                "skops.io.dump(model, 'model.skops')"
            )
    versions = {
        f"the model was saved with scikit-learn {w.message.original_sklearn_version}, "
        f"this is {w.message.current_sklearn_version}"
        for w in caught
        if isinstance(w.message, InconsistentVersionWarning)
    }
    for w in caught:
        if not isinstance(w.message, InconsistentVersionWarning):
            warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)
    return estimator, tuple(sorted(versions))


def _load_skops(path: Path, trust: tuple[str, ...]) -> Any:
    """Load a skops file that names no type beyond the reviewed and the trusted ones."""
    try:
        named = set(skops.io.get_untrusted_types(file=path))
        unknown = sorted(named - REVIEWED - set(trust))
        estimator = None if unknown else skops.io.load(path, trusted=sorted(named))
    # A damaged or hostile file makes skops raise almost anything.
    except Exception as exc:
        raise ConfigError(
            f"{path}: cannot be loaded: {type(exc).__name__}: {exc}; "
            + _advice(
                exc, "save it again by skops.io.dump, with the classes it uses importable here"
            )
        ) from exc
    if unknown:
        raise ConfigError(
            f"{path}: holds classes that are not on the reviewed list: {', '.join(unknown)}. Name "
            "those that you trust under 'trust:' in the recipe; naming one imports and runs its "
            "module"
        )
    return estimator


def _unpickle(path: Path, *, consent: bool) -> Any:
    """Unpickle a file whose author is trusted."""
    if not consent:
        raise ConfigError(
            f"{path}: unpickling runs any code that the file contains. Save the model by "
            "skops.io.dump, or, for a file of your own, set 'allow_pickle: true' in the recipe"
        )
    try:
        return joblib.load(path)
    # The code inside a pickle can raise anything.
    except Exception as exc:
        raise ConfigError(
            f"{path}: cannot be unpickled: {type(exc).__name__}: {exc}; "
            + _advice(exc, "load it with the versions and modules that it was saved with")
        ) from exc


def _advice(exc: Exception, otherwise: str) -> str:
    """What to do about a file that cannot be loaded."""
    library = exc.name.partition(".")[0] if isinstance(exc, ImportError) and exc.name else ""
    return f"pip install 'edge-agent[{library}]'" if library in _LIBRARIES else otherwise
