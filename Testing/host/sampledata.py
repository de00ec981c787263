"""``SampleData``: registering, finding and loading samples that are files of this computer; nothing is downloaded here."""

import types
import urllib.parse
import urllib.request

import slicer


class SampleDataLogic:
    """Registered sources are kept in ``slicer.modules.sampleDataSources``, by category."""

    @staticmethod
    def registerCustomSampleDataSource(
        category="Custom", sampleName=None, uris=None, fileNames=None, nodeNames=None, checksums=None
    ):
        if not hasattr(slicer.modules, "sampleDataSources"):
            slicer.modules.sampleDataSources = {}
        source = types.SimpleNamespace(
            sampleName=sampleName, uris=[uris], fileNames=[fileNames], nodeNames=[nodeNames], checksums=[checksums]
        )
        sources = slicer.modules.sampleDataSources.setdefault(category, [])
        if source not in sources:
            sources.append(source)

    def downloadSample(self, sampleName):
        every = [s for sources in getattr(slicer.modules, "sampleDataSources", {}).values() for s in sources]
        source = next((s for s in every if s.sampleName == sampleName), None)
        if source is None:
            return None
        path = urllib.request.url2pathname(urllib.parse.urlparse(source.uris[0]).path)
        return slicer.util.loadNodeFromFile(path, None, {"name": source.nodeNames[0]})


def downloadSample(sampleName):
    return SampleDataLogic().downloadSample(sampleName)
