"""The host draws the scene: slices and surface of a segmentation, off screen."""

import numpy as np
import pytest
import slicer
from host import views

pytestmark = pytest.mark.skipif(not views.available(), reason="this machine cannot render off screen")


@pytest.fixture
def ball():
    grid = np.mgrid[:40, :40, :40] - 20
    inside = (np.sum(grid**2, axis=0) < 100).astype(np.uint8)
    volume = slicer.util.addVolumeFromArray((inside * 100 + 20).astype(np.int16))
    volume.CreateDefaultDisplayNodes()
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segment = segmentation.GetSegmentation().AddEmptySegment("ball", "Ball", [0.0, 1.0, 0.0])
    slicer.util.updateSegmentBinaryLabelmapFromArray(inside, segmentation, segment, volume)
    yield segmentation
    slicer.mrmlScene.Clear(0)


def greenish(picture):
    red, green, blue = (picture[..., i].astype(int) for i in range(3))
    return np.mean((green > red + 25) & (green > blue + 25))


def test_four_up_shows_the_segment_in_every_view(ball):
    picture = views.four_up(400, 400, center=(20, 20, 20))
    assert picture.shape == (400, 400, 3)
    for rows in (slice(8, 200), slice(208, 400)):
        for columns in (slice(0, 200), slice(200, 400)):
            assert greenish(picture[rows, columns]) > 0.05, (rows, columns)
