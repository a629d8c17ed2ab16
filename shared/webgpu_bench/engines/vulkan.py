"""Vulkan's devices, as its loader lists them, and which of them a WebGPU run may take.

Stands by itself, without any other package: benchmarks/gpu carries it to machines that have none.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any, NamedTuple

ONLY_GPUS = {"VK_LOADER_DRIVERS_DISABLE": "*lvp*,*swiftshader*"}
"""For the Vulkan loader: without it Mesa's lavapipe, a CPU, could answer in the GPU's name."""
SWIFTSHADER = (
    Path("/usr/lib/chromium/vk_swiftshader_icd.json"),
    Path("/opt/google/chrome/vk_swiftshader_icd.json"),
)
LOADER = "libvulkan.so.1"
CPU = 4
"""VK_PHYSICAL_DEVICE_TYPE_CPU."""
INSTANCE_INFO = 1
"""VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO."""
PROPERTIES_BYTES, TYPE_AT, NAME_AT = 4096, 16, 20
"""Of VkPhysicalDeviceProperties: more than it has, and where type and name stand in it."""


class Device(NamedTuple):
    """A physical device; `software`: a CPU that computes what a GPU would."""

    name: str
    software: bool


class _InstanceInfo(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.c_void_p),
        ("layers", ctypes.c_uint32),
        ("layer_names", ctypes.c_void_p),
        ("extensions", ctypes.c_uint32),
        ("extension_names", ctypes.c_void_p),
    )


def swiftshader() -> Path | None:
    """The driver file of the SwiftShader that an installed Chromium brings."""
    return next((path for path in SWIFTSHADER if path.is_file()), None)


def have_loader() -> bool:
    """Whether Vulkan's loader is installed."""
    try:
        return bool(ctypes.CDLL(LOADER))
    except OSError:
        return False


def devices() -> list[Device]:
    """Empty where there is no loader, or no driver that it may take."""
    if not have_loader():
        return []
    vulkan = ctypes.CDLL(LOADER)
    instance = ctypes.c_void_p()
    info = _InstanceInfo(type=INSTANCE_INFO)
    if vulkan.vkCreateInstance(ctypes.byref(info), None, ctypes.byref(instance)):
        return []
    count = ctypes.c_uint32()
    vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None)
    found = (ctypes.c_void_p * count.value)()
    vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), found)
    return [_device(vulkan, one) for one in found]


def _device(vulkan: Any, physical: int | None) -> Device:
    properties = ctypes.create_string_buffer(PROPERTIES_BYTES)
    vulkan.vkGetPhysicalDeviceProperties(ctypes.c_void_p(physical), properties)
    kind = ctypes.c_uint32.from_buffer(properties, TYPE_AT).value
    return Device(ctypes.string_at(ctypes.addressof(properties) + NAME_AT).decode(), kind == CPU)


if __name__ == "__main__":
    print(json.dumps([device._asdict() for device in devices()]))
