"""scikit-learn: a random forest, a k-means and a PCA on one set of points; the models' words on unseen points."""

from __future__ import annotations

import hashlib

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier

POINTS = 200_000
FEATURES = 60


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def main() -> None:
    chance = np.random.default_rng(6)
    centres = chance.normal(size=(12, FEATURES)) * 3
    kinds = chance.integers(0, len(centres), POINTS)
    points = np.round(centres[kinds] + chance.normal(size=(POINTS, FEATURES)) * 2, 2)
    unseen = points[::101] + 0.125
    forest = RandomForestClassifier(n_estimators=8, max_depth=12, random_state=7, n_jobs=1).fit(points, kinds % 3)
    print("forest", digest(forest.predict(unseen)), digest(forest.feature_importances_.round(9)))
    # One thread: with several, the order of a sum is a matter of chance.
    clusters = KMeans(n_clusters=12, n_init=1, max_iter=20, random_state=8).fit(points)
    print("clusters", digest(np.bincount(clusters.predict(unseen))))
    main_axes = PCA(n_components=5, svd_solver="full").fit(points)
    print("axes", " ".join(f"{part:.6f}" for part in main_axes.explained_variance_ratio_))


if __name__ == "__main__":
    main()
