"""Pictures of the scene: three slice views and a 3D view, drawn off screen by Slicer's own displayable managers."""

import functools
import subprocess
import sys

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

SLICE_COLORS = {"Red": (0.95, 0.29, 0.25), "Yellow": (0.93, 0.84, 0.30), "Green": (0.43, 0.69, 0.29)}


@functools.cache
def available() -> bool:
    """Whether this machine can draw off screen; asked in a child process, for a missing driver may end the process."""
    code = "import vtk; w = vtk.vtkRenderWindow(); w.SetOffScreenRendering(1); w.AddRenderer(vtk.vtkRenderer()); w.Render()"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, check=False)
    return child.returncode == 0 and b"ERR|" not in child.stderr


def _window(width: int, height: int):
    window, renderer = vtk.vtkRenderWindow(), vtk.vtkRenderer()
    window.SetOffScreenRendering(1)
    window.SetMultiSamples(8)
    window.SetSize(width, height)
    window.AddRenderer(renderer)
    interactor = vtk.vtkGenericRenderWindowInteractor()
    interactor.SetRenderWindow(window)
    return window, renderer, interactor


def _pixels(window) -> np.ndarray:
    """What the window shows, as rows of RGB bytes from the top."""
    window.Render()
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    grab.ReadFrontBufferOff()
    grab.Update()
    image = grab.GetOutput()
    columns, rows, _ = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1)[::-1, :, :3].copy()


@functools.cache
def _factories():
    logic = slicer.app.applicationLogic()
    found = {}
    for kind, managers in (
        ("vtkMRMLSliceViewDisplayableManagerFactory", ("vtkMRMLSegmentationsDisplayableManager2D",)),
        ("vtkMRMLThreeDViewDisplayableManagerFactory", ("vtkMRMLSegmentationsDisplayableManager3D",)),
    ):
        factory = found[kind] = getattr(slicer, kind).GetInstance()
        factory.SetMRMLApplicationLogic(logic)
        for name in managers:
            factory.RegisterDisplayableManager(name)
    return found


def slice_picture(name: str, width: int = 480, height: int = 480, center=None, zoom: float = 1.0) -> np.ndarray:
    """One slice view ("Red", "Yellow" or "Green"): image and segmentations, through ``center`` (RAS, mm) if given."""
    logic = slicer.app.layoutManager().sliceWidget(name).sliceLogic()
    node = logic.GetSliceNode()
    node.SetDimensions(width, height, 1)
    logic.FitSliceToBackground(width, height)
    if center is not None:
        node.JumpSliceByCentering(*center)
    field = [size / zoom for size in node.GetFieldOfView()]
    node.SetFieldOfView(field[0], field[1], node.GetFieldOfView()[2])
    window, renderer, interactor = _window(width, height)
    logic.UpdatePipeline()
    if logic.GetBackgroundLayer() is not None and logic.GetBackgroundLayer().GetVolumeNode() is not None:
        mapper, actor = vtk.vtkImageMapper(), vtk.vtkActor2D()
        mapper.SetInputConnection(logic.GetImageDataConnection())
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        actor.SetMapper(mapper)
        actor.SetLayerNumber(0)
        renderer.AddViewProp(actor)
    group = _factories()["vtkMRMLSliceViewDisplayableManagerFactory"].InstantiateDisplayableManagers(renderer)
    group.SetMRMLDisplayableNode(node)
    group.GetInteractor()
    picture = _pixels(window)
    picture[:4] = np.array(SLICE_COLORS[name]) * 255
    group.SetMRMLDisplayableNode(None)
    return picture


def surface_picture(width: int = 480, height: int = 480, direction=(0.5, 1.0, 0.35)) -> np.ndarray:
    """The 3D view: closed surfaces of the visible segmentations, seen from ``direction`` (RAS) of their centre."""
    window, renderer, interactor = _window(width, height)
    node = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLViewNode") or slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLViewNode"
    )
    renderer.SetBackground(node.GetBackgroundColor())
    renderer.SetBackground2(node.GetBackgroundColor2())
    renderer.GradientBackgroundOn()
    for segmentation in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        segmentation.CreateClosedSurfaceRepresentation()
    group = _factories()["vtkMRMLThreeDViewDisplayableManagerFactory"].InstantiateDisplayableManagers(renderer)
    group.SetMRMLDisplayableNode(node)
    camera = renderer.GetActiveCamera()
    bounds = renderer.ComputeVisiblePropBounds()
    middle = np.array([(bounds[0] + bounds[1]) / 2, (bounds[2] + bounds[3]) / 2, (bounds[4] + bounds[5]) / 2])
    camera.SetFocalPoint(*middle)
    camera.SetPosition(*(middle + 100 * np.asarray(direction)))
    camera.SetViewUp(0, 0, 1)
    renderer.ResetCamera(bounds)
    camera.Zoom(1.25)
    renderer.ResetCameraClippingRange()
    picture = _pixels(window)
    group.SetMRMLDisplayableNode(None)
    return picture


def four_up(width: int = 960, height: int = 960, center=None, zoom: float = 1.0) -> np.ndarray:
    """Slicer's four-up layout: axial and 3D above, coronal and sagittal below."""
    w, h = width // 2, height // 2
    red, yellow, green = (slice_picture(n, w, h, center, zoom) for n in ("Red", "Yellow", "Green"))
    return np.vstack([np.hstack([red, surface_picture(w, h)]), np.hstack([green, yellow])])
