"""Record: what a probe saw, as labelled arrays with layouts and provenance; save, open, merge.

A Record holds an xarray Dataset whose axes are the words of the glossary. Samples differ in
length, so ``token``, ``query`` and ``key`` are padded with NaN (0 in whole-number arrays) and
``length[sample]`` says how far each sample goes. Nothing here imports torch.

Format, ``schema_version`` 1 (a folder): ``record.nc`` (netCDF-4), ``record.json`` (provenance,
layouts and clip summaries). Default variables:

==================  ==========================================  =================================
variable            axes                                        meaning
==================  ==========================================  =================================
length              sample                                      number of tokens
segment_sum         sample layer head segment key               attention summed over the queries
                                                                of a segment
queries             sample layer segment key                    how many of them see the key
entropy             sample layer head query                     row entropy, nats
top_value           sample layer token rank                     8 largest |x| of resid_post, signed
top_feature         sample layer token rank                     and the features that hold them
mlp_out_top_value   sample layer rank                           5 largest of the layer, with
                                                                ``_token`` and ``_feature``; the
                                                                same for ``attn_out``
median              sample layer                                median |x| of resid_post; also
                                                                ``mlp_out_`` and ``attn_out_median``
norm                sample layer token                          Euclidean norm of resid_post
key_norm            sample layer kv_head token                  norm of the key
value_norm          sample layer kv_head token                  norm of the value
bos_cosine          sample layer token                          cosine of resid_post to the
                                                                layout's reference token
router              sample layer token expert                   of a model with MoME: probabilities
==================  ==========================================  =================================

A statistic of another site carries the site's name in front (``mlp_out_median``). An array that
was kept is called by its site (``pattern``, ``resid_post``, ``mlp_act`` ...).
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sinkscope.errors import CheckpointError, InputError, SiteError
from sinkscope.layout import TokenLayout

__all__ = ["SCHEMA_VERSION", "ClipSummary", "Record", "merge"]

SCHEMA_VERSION = 1

_OWN_AXES = ("layer", "feature", "neuron", "head", "kv_head", "rank")
_PER_TOKEN = ("token", "query", "key")
_SAME_MODEL = ("subject", "model_hash", "prepend_bos")


@dataclass(frozen=True)
class ClipSummary:
    """What a reader of a record wants to know of the clip, small enough to travel with it.

    Attributes:
        name: the clip's short name.
        path: where it came from, or "".
        duration: seconds.
        text: what is said, or "" where unknown.
        envelope: lowest and highest sample of the waveform in each of ``envelope_rate`` parts of
            a second; empty where the clip has no sound.
        envelope_rate: parts a second.
        notes: sentences that the reader of a report must know.
        picture: a hash of the frames, or "" where the clip has none.
    """

    name: str
    path: str = ""
    duration: float = 0.0
    text: str = ""
    envelope: list[list[float]] = field(default_factory=list)
    envelope_rate: float = 100.0
    notes: list[str] = field(default_factory=list)
    picture: str = ""


@dataclass(frozen=True, eq=False)
class Record:
    """Labelled arrays of one or several samples, with a layout each and their provenance.

    Attributes:
        dataset: the arrays; axes that differ between variables are stored as ``variable.axis``.
            Read variables with ``record[name]``, which gives them their plain names.
        layouts: one TokenLayout a sample, padding left out.
        provenance: how the record came about (model, versions, dtype, BOS present or not ...).
        clips: what is known of each sample's clip; None for plain text.
    """

    dataset: xr.Dataset
    layouts: tuple[TokenLayout, ...]
    provenance: Mapping[str, Any]
    clips: tuple[ClipSummary | None, ...] = ()

    @classmethod
    def of(
        cls,
        variables: Mapping[str, xr.DataArray],
        layouts: Sequence[TokenLayout],
        provenance: Mapping[str, Any],
        *,
        clips: Sequence[ClipSummary | None] = (),
    ) -> "Record":
        """A record of the given arrays; an axis that disagrees with the others' becomes its own.

        Raises:
            InputError: if there is no layout for every sample.
        """
        axes: dict[str, Any] = {}
        stored: dict[str, xr.DataArray] = {}
        for name, array in variables.items():
            own = {axis: f"{name}.{axis}" for axis in _own_axes(array, axes)}
            stored[name] = array.rename(own)
        lengths = [len(layout) for layout in layouts]
        dataset = xr.merge(
            [array.rename(name) for name, array in stored.items()], join="outer", compat="equals"
        )
        if dataset.sizes.get("sample", len(lengths)) != len(lengths):
            raise InputError(
                f"Record: {len(lengths)} layouts for {dataset.sizes['sample']} samples."
            )
        dataset["length"] = ("sample", np.array(lengths, np.int64))
        provenance = {"schema_version": SCHEMA_VERSION, **provenance}
        return cls(dataset, tuple(layouts), provenance, tuple(clips) or (None,) * len(lengths))

    def __getitem__(self, name: str) -> xr.DataArray:
        """One variable with plain axis names.

        Raises:
            SiteError: if the record does not hold it.
        """
        if name not in self.dataset:
            held = ", ".join(sorted(str(held) for held in self.dataset.data_vars))
            raise SiteError(
                f"The record holds no {name!r} (it holds {held}); record again and ask for it, "
                f"for a site or the attention map with keep=[{name!r}]."
            )
        array = self.dataset[name]
        own = {axis: str(axis).rpartition(".")[2] for axis in array.dims if "." in str(axis)}
        if own:
            array = array.drop_vars([axis for axis in own.values() if axis in array.coords])
        return array.rename(own)

    def __contains__(self, name: object) -> bool:
        return name in self.dataset

    def __iter__(self) -> Iterator[str]:
        return (str(name) for name in self.dataset.data_vars)

    def __len__(self) -> int:
        return len(self.layouts)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{axis} {size}" for axis, size in self.dataset.sizes.items())
        return f"Record of {self.provenance.get('subject', 'a model')} ({sizes}): {', '.join(self)}"

    @property
    def layers(self) -> list[int]:
        """The 0-based layers that the default statistics cover."""
        return [int(layer) for layer in self.dataset["layer"]] if "layer" in self.dataset else []

    @property
    def massive_ratio(self) -> float | None:
        """The subject's own ratio for massive activations, where it carries one."""
        return self.provenance.get("massive_ratio")

    def sample(self, index: int) -> "Record":
        """The record of one sample alone, its arrays cut to its own length.

        Raises:
            InputError: if there is no such sample.
        """
        if not 0 <= index < len(self):
            raise InputError(f"Record.sample: there is no sample {index}; it has {len(self)}.")
        length = len(self.layouts[index])
        cut = {axis: slice(0, length) for axis in _PER_TOKEN}
        dataset = self.dataset.isel(sample=[index]).isel(
            {axis: part for axis, part in cut.items() if axis in self.dataset.dims}
        )
        return Record(dataset, (self.layouts[index],), self.provenance, (self.clips[index],))

    def save(self, folder: str | Path) -> Path:
        """Write the record to a folder, whole or not at all; an older record there is replaced."""
        folder = Path(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        temporary.chmod(0o755)
        try:
            compress = {name: {"zlib": True, "complevel": 1} for name in self.dataset.data_vars}
            self.dataset.to_netcdf(temporary / "record.nc", engine="h5netcdf", encoding=compress)
            content = {
                "provenance": dict(self.provenance),
                "layouts": [layout.to_dict() for layout in self.layouts],
                "clips": [clip and asdict(clip) for clip in self.clips],
            }
            (temporary / "record.json").write_text(json.dumps(content, allow_nan=False))
            if folder.exists():
                shutil.rmtree(folder)
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return folder

    @classmethod
    def open(cls, folder: str | Path) -> "Record":
        """Read a record that ``save`` wrote.

        Raises:
            CheckpointError: if the folder is no record, is damaged, or is of another version.
        """
        folder = Path(folder)
        try:
            content = json.loads((folder / "record.json").read_text())
            version = content["provenance"]["schema_version"]
            if version != SCHEMA_VERSION:
                raise CheckpointError(
                    f"{folder} is a record of schema {version}; this sinkscope reads "
                    f"{SCHEMA_VERSION}: record it again."
                )
            with xr.open_dataset(folder / "record.nc", engine="h5netcdf") as lazy:
                dataset = lazy.load()
            layouts = tuple(TokenLayout.from_dict(layout) for layout in content["layouts"])
            clips = tuple(clip and ClipSummary(**clip) for clip in content["clips"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                f"{folder} is not a whole record ({error}); name a folder that Record.save wrote."
            ) from error
        return cls(dataset, layouts, content["provenance"], clips)


def merge(records: Sequence[Record]) -> Record:
    """Join records of one model into one, sample after sample.

    Args:
        records: at least one; the same model, layers and variables.

    Raises:
        InputError: if there is none, or if they are not of one model, or hold different variables.
    """
    if not records:
        raise InputError("merge: there is no record to merge; give at least one.")
    first = records[0]
    for record in records[1:]:
        _refuse_unlike(first, record)
    dataset = xr.concat(
        [_with_numbers(record.dataset) for record in records],
        dim="sample",
        data_vars="minimal",
        coords="minimal",
        compat="override",
        join="outer",
    )
    whole = {name: array.dtype for name, array in first.dataset.items() if array.dtype.kind in "iu"}
    for name, dtype in whole.items():
        dataset[name] = dataset[name].fillna(0).astype(dtype)
    return Record(
        dataset,
        tuple(layout for record in records for layout in record.layouts),
        first.provenance,
        tuple(clip for record in records for clip in record.clips),
    )


def _own_axes(array: xr.DataArray, axes: dict[str, Any]) -> list[str]:
    """The axes of ``array`` that disagree with those seen before; the others are remembered."""
    own = []
    for axis in map(str, array.dims):
        if axis not in _OWN_AXES:
            continue
        found = tuple(array[axis].values.tolist()) if axis in array.coords else array.sizes[axis]
        if axes.setdefault(axis, found) != found:
            own.append(axis)
    return own


def _refuse_unlike(first: Record, other: Record) -> None:
    for key in _SAME_MODEL:
        if first.provenance.get(key) != other.provenance.get(key):
            found = f"{first.provenance.get(key)!r} and {other.provenance.get(key)!r}"
            raise InputError(f"merge: records differ in {key}: {found}; merge those of one model.")
    if first.layers != other.layers or set(first) != set(other):
        differ = sorted(set(first) ^ set(other)) or ["layers"]
        raise InputError(f"merge: the records differ in {', '.join(differ)}; record them alike.")


def _with_numbers(dataset: xr.Dataset) -> xr.Dataset:
    """Number tokens, queries, keys and bins, so that samples of unequal length line up."""
    axes = [axis for axis in (*_PER_TOKEN, "query_bin", "key_bin", "place") if axis in dataset.dims]
    return dataset.assign_coords({axis: np.arange(dataset.sizes[axis]) for axis in axes})
