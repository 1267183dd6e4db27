"""What SPDK's documentation and schema say of the methods that virtiod has too: facts that its client does not hold.

Settings of what only SPDK has are not here: virtiod takes them whatever they say.
"""

from __future__ import annotations

# Method -> its parameters, each with its type; ! after those that are required.
PARAMS = {
    "bdev_enable_histogram": "name:string! enable:boolean! opc:string granularity:uint8 min_nsec:uint64 "
    "max_nsec:uint64",
    "bdev_get_bdevs": "name:string timeout:uint64",
    "bdev_get_histogram": "name:string!",
    "bdev_get_histogram_borders": "name:string! borders:array!",
    "bdev_get_iostat": "names:array per_channel:boolean reset_mode:enum",
    "bdev_null_create": "name:string! block_size:uint32! num_blocks:uint64! uuid:uuid physical_block_size:uint32 "
    "md_size:uint32 dif_type:int32 dif_pi_format:uint32 dif_is_head_of_md:boolean preferred_write_granularity:uint32 "
    "preferred_write_alignment:uint32 optimal_write_size:uint32 preferred_unmap_granularity:uint32 "
    "preferred_unmap_alignment:uint32",
    "bdev_null_delete": "name:string!",
    "bdev_reset_iostat": "name:string mode:enum",
    "bdev_set_options": "bdev_io_pool_size:uint32 bdev_io_cache_size:uint32 bdev_auto_examine:boolean "
    "iobuf_small_cache_size:uint32 iobuf_large_cache_size:uint32",
    "bdev_set_qd_sampling_period": "name:string! period:uint64!",
    "bdev_virtio_attach_controller": "name:string! trtype:enum! traddr:string! dev_type:enum! vq_count:uint32 "
    "vq_size:uint32",
    "bdev_virtio_blk_set_hotplug": "enable:boolean! period_us:uint64",
    "bdev_virtio_detach_controller": "name:string!",
    "bdev_virtio_scsi_get_devices": "",
    "bdev_wait_for_examine": "",
    "env_dpdk_get_mem_stats": "",
    "framework_get_config": "name:string! with_batches:boolean",
    "framework_get_governor": "",
    "framework_get_reactors": "",
    "framework_get_scheduler": "",
    "framework_get_subsystems": "",
    "framework_start_init": "",
    "framework_wait_init": "",
    "iobuf_get_stats": "",
    "log_clear_flag": "flag:string!",
    "log_get_flags": "",
    "log_get_level": "",
    "log_get_print_level": "",
    "log_set_flag": "flag:string!",
    "log_set_level": "level:enum!",
    "log_set_print_level": "level:enum!",
    "notify_get_notifications": "id:uint64 max:uint64",
    "notify_get_types": "",
    "rpc_get_methods": "current:boolean include_aliases:boolean",
    "spdk_get_version": "",
    "spdk_kill_instance": "sig_name:enum!",
    "thread_get_io_channels": "",
    "thread_get_pollers": "",
    "thread_get_stats": "",
}
JSON_TYPES = {"string": "string", "uuid": "string", "enum": "string", "boolean": "boolean", "array": "array"}

Shape = object  # a type; an object's members, "?" after the names of those that may be absent; [shape] of an array

_POOL = {"cache": int, "main": int, "retry": int}
_VIRTIO = {"vq_count": int, "vq_size": int, "type": str, "socket?": str, "pci_address?": str}
_POLLED = {"name": str, "id": int, "state": str, "run_count": int, "busy_count": int, "period_ticks?": int}
_COUNTED = {
    **dict.fromkeys(("bytes_read", "num_read_ops", "bytes_written", "num_write_ops"), int),
    **dict.fromkeys(("bytes_unmapped", "num_unmap_ops"), int),
    **dict.fromkeys(("read_latency_ticks", "write_latency_ticks", "unmap_latency_ticks"), int),
}
_SAMPLED = dict.fromkeys(("queue_depth_polling_period?", "queue_depth?", "io_time?", "weighted_io_time?"), int)

# Method -> what it answers, if that is not true when it is done.
RESULTS: dict[str, Shape] = {
    "bdev_get_bdevs": [
        {
            **dict.fromkeys(("name", "product_name", "uuid"), str),
            **dict.fromkeys(("block_size", "num_blocks"), int),
            **dict.fromkeys(("claimed", "zoned"), bool),
            "aliases": [str],
            "assigned_rate_limits": dict.fromkeys(
                ("rw_ios_per_sec", "rw_mbytes_per_sec", "r_mbytes_per_sec", "w_mbytes_per_sec"), int
            ),
            "supported_io_types": dict.fromkeys(
                ("read", "write", "unmap", "write_zeroes", "flush", "reset", "nvme_admin", "nvme_io"), bool
            ),
            "driver_specific": dict,
        }
    ],
    "bdev_get_histogram": {
        "histogram": str,
        **dict.fromkeys(("granularity", "min_range", "max_range", "tsc_rate"), int),
    },
    "bdev_get_histogram_borders": {"borders_count": [int]},
    "bdev_get_iostat": {
        "tick_rate": int,
        "ticks": int,
        "bdevs?": [{"name": str, **_COUNTED, **_SAMPLED}],
        "name?": str,
        "channels?": [{"thread_id": int, **_COUNTED}],
    },
    "bdev_null_create": str,
    "bdev_virtio_attach_controller": [str],
    "bdev_virtio_scsi_get_devices": [{"name": str, "virtio": _VIRTIO}],
    "env_dpdk_get_mem_stats": {"filename": str},
    "framework_get_config": [{"method": str, "params?": dict}],
    "framework_get_governor": {},
    "framework_get_reactors": {
        "tick_rate": int,
        "pid": int,
        "reactors": [
            {
                **dict.fromkeys(("lcore", "tid", "busy", "idle"), int),
                "lw_threads": [{"name": str, "id": int, "cpumask": str, "elapsed": int}],
            }
        ],
    },
    "framework_get_scheduler": {
        "scheduler_name": str,
        "scheduler_period": int,
        "governor_name?": str,
        "scheduling_core": int,
        "isolated_core_mask": str,
    },
    "framework_get_subsystems": [{"subsystem": str, "depends_on": [str]}],
    "iobuf_get_stats": [{"module": str, "small_pool": _POOL, "large_pool": _POOL}],
    "log_get_flags": dict,
    "log_get_level": str,
    "log_get_print_level": str,
    "notify_get_notifications": [{"type": str, "ctx": str, "id": int}],
    "notify_get_types": [str],
    "rpc_get_methods": [str],
    "spdk_get_version": {
        "version": str,
        "fields": {"major": int, "minor": int, "patch": int, "suffix": str, "commit?": str},
    },
    "thread_get_io_channels": {
        "tick_rate": int,
        "threads": [{"name": str, "io_channels": [{"name": str, "ref": int}]}],
    },
    "thread_get_pollers": {
        "tick_rate": int,
        "threads": [
            {
                "name": str,
                "id": int,
                "active_pollers": [_POLLED],
                "timed_pollers": [_POLLED],
                "paused_pollers": [_POLLED],
            }
        ],
    },
    "thread_get_stats": {
        "tick_rate": int,
        "threads": [
            {
                **dict.fromkeys(("name", "cpumask"), str),
                **dict.fromkeys(("id", "busy", "idle"), int),
                **dict.fromkeys(("active_pollers_count", "timed_pollers_count", "paused_pollers_count"), int),
            }
        ],
    },
}


def misfit(value: object, shape: Shape, at: str = "") -> str:
    """Where the value is not of that shape; "" if it is. Objects may have more members."""
    if isinstance(shape, type):
        fits = isinstance(value, shape) and isinstance(value, bool) == (shape is bool)
        return "" if fits else f"{at}: {value!r} is no {shape.__name__}"
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{at}: {value!r} is no array"
        return next(filter(None, (misfit(one, shape[0], f"{at}[{i}]") for i, one in enumerate(value))), "")
    assert isinstance(shape, dict)
    if not isinstance(value, dict):
        return f"{at}: {value!r} is no object"
    for name, inner in shape.items():
        known = name.removesuffix("?")
        if known in value:
            wrong = misfit(value[known], inner, f"{at}.{known}")
        else:
            wrong = "" if name.endswith("?") else f"{at}: has no {name}"
        if wrong:
            return wrong
    return ""
