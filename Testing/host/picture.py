"""A picture for the README: the module's panel beside the three slices and the surface of a real result.

``python -m host.picture UNetSegment/UNetSegment.py OUT.png --volume IMAGE [--segmentation FILE | --apply]`` (from Testing/).
"""

import argparse
from pathlib import Path

import host


def compose(panel, out: Path, width: int = 1280, height: int = 800, center=None, zoom: float = 1.0) -> Path:
    """Panel (400 px) on the left, four-up views on the right."""
    from PySide6.QtGui import QImage, QPainter, QPalette

    from . import pythonqt, views

    window = pythonqt.unwrap(panel.parent)
    window.resize(400, height)
    host.process_events()
    scene = views.four_up(width - 400, height, center, zoom)
    image = QImage(width, height, QImage.Format_RGB32)
    image.fill(window.palette().color(QPalette.ColorRole.Window))
    painter = QPainter(image)
    painter.drawPixmap(0, 0, window.grab())
    rows, columns, _ = scene.shape
    painter.drawImage(400, 0, QImage(scene.tobytes(), columns, rows, 3 * columns, QImage.Format_RGB888))
    painter.end()
    if not image.save(str(out)):
        raise OSError(f"cannot write {out}")
    return out


def segment_center(segmentation):
    """The centre (RAS, mm) of what the node shows, for the slices to go through."""
    bounds = [0.0] * 6
    segmentation.GetRASBounds(bounds)
    return [(bounds[2 * i] + bounds[2 * i + 1]) / 2 for i in range(3)]


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--volume", type=Path)
    parser.add_argument("--segmentation", type=Path, help="show this segmentation instead of computing one")
    parser.add_argument("--apply", action="store_true", help="choose the volume in the panel, press Apply and wait")
    parser.add_argument("--zoom", type=float, default=1.0)
    options = parser.parse_args(arguments)
    host.start()
    import slicer

    panel = host.load_module(options.module)
    if options.volume:
        volume = slicer.util.loadVolume(str(options.volume))
        for selector in panel.parent.findChildren(slicer.qMRMLNodeComboBox):
            if options.apply and "vtkMRMLScalarVolumeNode" in selector.nodeTypes:
                selector.setCurrentNode(volume)
                break
    if options.segmentation:
        slicer.util.loadSegmentation(str(options.segmentation))
    elif options.apply:
        button = panel.ui.applyButton
        label = button.text
        button.click()
        host.wait(lambda: slicer.util.getNodesByClass("vtkMRMLSegmentationNode") and button.text == label, 300)
    nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    print(compose(panel, options.out, center=segment_center(nodes[-1]) if nodes else None, zoom=options.zoom))


if __name__ == "__main__":
    main()
