"""``SampleData``: registering, finding and loading sample data; downloads go through ``slicer.util.downloadFile``."""

import os
import urllib.parse
import urllib.request

import slicer


def _list(value, count):
    return list(value) if isinstance(value, list | tuple) else [value] * count


class SampleDataSource:
    """One data set: as many files, nodes and checksums as addresses."""

    def __init__(
        self,
        sampleName=None,
        sampleDescription=None,
        uris=None,
        fileNames=None,
        nodeNames=None,
        checksums=None,
        loadFiles=None,
        customDownloader=None,
        thumbnailFileName=None,
        loadFileTypes=None,
        loadFileProperties=None,
        loadFileType=None,
    ):
        self.sampleName, self.sampleDescription = sampleName, sampleDescription or sampleName
        self.uris = [uris] if isinstance(uris, str) else uris
        count = len(self.uris)
        self.fileNames, self.nodeNames, self.checksums, self.loadFiles, self.loadFileTypes = (
            _list(v, count) for v in (fileNames, nodeNames, checksums, loadFiles, loadFileTypes or loadFileType)
        )
        self.customDownloader, self.thumbnailFileName = customDownloader, thumbnailFileName
        self.loadFileProperties = loadFileProperties or {}
        if any(len(v) != count for v in (self.fileNames, self.nodeNames, self.checksums, self.loadFiles)):
            raise ValueError("All fields of sample data source must have the same length")


class SampleDataLogic:
    """Registered sources are kept in ``slicer.modules.sampleDataSources``."""

    def __init__(self, logMessage=None):
        self.logMessage = logMessage or (lambda message, level=None: None)

    @staticmethod
    def registerCustomSampleDataCategory(category, title):
        slicer.modules.sampleDataCategoryTitles = getattr(slicer.modules, "sampleDataCategoryTitles", {}) | {
            category: title
        }

    @staticmethod
    def registerCustomSampleDataSource(
        category="Custom",
        sampleName=None,
        uris=None,
        fileNames=None,
        nodeNames=None,
        customDownloader=None,
        thumbnailFileName=None,
        loadFileTypes=None,
        loadFiles=None,
        loadFileProperties=None,
        checksums=None,
        loadFileType=None,
    ):
        if not hasattr(slicer.modules, "sampleDataSources"):
            slicer.modules.sampleDataSources = {}
        source = SampleDataSource(
            sampleName=sampleName,
            uris=uris,
            fileNames=fileNames,
            nodeNames=nodeNames,
            customDownloader=customDownloader,
            thumbnailFileName=thumbnailFileName,
            loadFileTypes=loadFileTypes or loadFileType,
            loadFiles=loadFiles,
            loadFileProperties=loadFileProperties,
            checksums=checksums,
        )
        sources = slicer.modules.sampleDataSources.setdefault(category, [])
        if all(vars(s) != vars(source) for s in sources):
            sources.append(source)

    def sourceForSampleName(self, name):
        every = [s for sources in getattr(slicer.modules, "sampleDataSources", {}).values() for s in sources]
        return next((s for s in every if s.sampleName == name), None)

    def downloadFromSource(self, source, maximumAttemptsCount=3, forceDownload=False):
        nodes = []
        if source.customDownloader is not None:
            return source.customDownloader(source)
        for uri, name, node_name, checksum, load, kind in zip(
            source.uris,
            source.fileNames,
            source.nodeNames,
            source.checksums,
            source.loadFiles,
            source.loadFileTypes,
            strict=True,
        ):
            parts = urllib.parse.urlparse(uri)
            path = (
                urllib.request.url2pathname(parts.path)
                if parts.scheme == "file"
                else os.path.join(slicer.app.cachePath, name or os.path.basename(parts.path))
            )
            if parts.scheme != "file" and not slicer.util.downloadFile(uri, path, checksum):
                raise RuntimeError(f"Failed to download {uri}")
            if load is False or (load is None and node_name is None):
                nodes.append(path)
            else:
                properties = dict(source.loadFileProperties, name=node_name)
                nodes.append(slicer.util.loadNodeFromFile(path, kind, properties))
        return nodes

    def downloadSamples(self, sampleName):
        source = self.sourceForSampleName(sampleName)
        return self.downloadFromSource(source) if source else []

    def downloadSample(self, sampleName):
        return next(iter(self.downloadSamples(sampleName)), None)


def downloadSample(sampleName):
    return SampleDataLogic().downloadSample(sampleName)


def downloadSamples(sampleName):
    return SampleDataLogic().downloadSamples(sampleName)
