"""PromptSeg's entries in Slicer's Sample Data module; nothing is downloaded before the user clicks one."""

from __future__ import annotations

from dataclasses import dataclass

CATEGORY = "PromptSeg"


@dataclass(frozen=True)
class Sample:
    """One volume.

    :param name: the text on its button, unique among all of Slicer's samples.
    :param node_name: what the volume is called in the scene. Sample Data shows the thumbnail of that name, if it has
        one.
    """

    name: str
    url: str
    file_name: str
    node_name: str
    sha256: str


# The tutorial's: Slicer's own CTLiver, so that a copy that Slicer downloaded before is used. Portal-venous abdominal
# CT, liver_100 of the Medical Segmentation Decathlon's Task03, CC BY-SA 4.0.
TUTORIAL = Sample(
    "PromptSegCTLiver",
    "https://github.com/Slicer/SlicerTestingData/releases/download/"
    "SHA256/e16eae0ae6fefa858c5c11e58f0f1bb81834d81b7102e021571056324ef6f37e",
    "CTLiver.nrrd",
    "CTLiver",
    "e16eae0ae6fefa858c5c11e58f0f1bb81834d81b7102e021571056324ef6f37e",
)

# `make demo`'s: small, so that everything is quick. TotalSegmentator's example, Apache-2.0; the commit is v2.9.0.
DEMO = Sample(
    "PromptSegDemoCT",
    "https://raw.githubusercontent.com/wasserth/TotalSegmentator/"
    "8dad777286a45f9e72e107e63aa8ac26f78be400/tests/reference_files/example_ct_sm.nii.gz",
    "PromptSegDemoCT.nii.gz",
    "PromptSegDemoCT",
    "e50c00b2914e2cac0aaee8e7f3b5f57d44d9f21bfd5c0577271c54c0cb49e9fb",
)

SAMPLES = (TUTORIAL, DEMO)


def register() -> None:
    """Add the samples to the Sample Data module; call it when the application has started.

    Registering twice adds nothing twice: Sample Data drops what it has already.
    """
    import SampleData  # a module of the application, there only once it has started

    for sample in SAMPLES:
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category=CATEGORY,
            sampleName=sample.name,
            uris=sample.url,
            fileNames=sample.file_name,
            nodeNames=sample.node_name,
            loadFileTypes="VolumeFile",
            checksums=f"SHA256:{sample.sha256}",
        )
