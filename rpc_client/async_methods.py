"""A function for each method. What is not given is not sent: defaults are the daemon's.

Made by `python -m virtiod.rpc.describe`; what is changed here is lost.
"""

from __future__ import annotations

from typing import Any, Literal

from rpc_client import results
from rpc_client.typed import AsyncCaller


class AsyncMethods(AsyncCaller):
    """The methods of a virtiod. Each raises ClientError; a MethodError has the code and message of the daemon."""

    async def accel_set_options(
        self,
        *,
        timeout_s: float | None = None,
    ) -> bool:
        """Takes settings of SPDK's accel framework, which virtiod does not have. Changes nothing.

        Returns: true when it is done

        MethodError -13: it needs the role admin
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(bool, "accel_set_options", {}, timeout_s)

    async def bdev_enable_histogram(
        self,
        *,
        name: str,
        enable: bool,
        opc: str | None = None,
        granularity: int | None = None,
        min_nsec: int | None = None,
        max_nsec: int | None = None,
        timeout_s: float | None = None,
    ) -> bool:
        """Starts or ends the collection of a latency histogram.

        name: bdev (1 to 255 printable characters)
        enable: enable or disable
        opc: only this I/O type (default: all)
        granularity: 2 to the power of it is the number of buckets of a range (default: 5)
        min_nsec: ns; lower latencies are counted as one (default: 1000)
        max_nsec: ns; higher latencies are counted as one (default: 120000000000)

        Returns: true when it is done

        MethodError -1: it can't be called now
        MethodError -13: it needs the role admin
        MethodError -19: there is no such bdev
        MethodError -22: the bdev has no such I/O type, or min_nsec is not below max_nsec
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        params = {
            "name": name,
            "enable": enable,
            "opc": opc,
            "granularity": granularity,
            "min_nsec": min_nsec,
            "max_nsec": max_nsec,
        }
        return await self._ask(bool, "bdev_enable_histogram", params, timeout_s)

    async def bdev_examine(
        self,
        *,
        timeout_s: float | None = None,
    ) -> bool:
        """Takes settings of bdevs that SPDK finds on others, which virtiod does not have. Changes nothing.

        Returns: true when it is done

        MethodError -13: it needs the role admin
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(bool, "bdev_examine", {}, timeout_s)

    async def bdev_get_bdevs(
        self,
        *,
        name: str | None = None,
        timeout: int | None = None,
        timeout_s: float | None = None,
    ) -> list[results.Bdev]:
        """Describes the bdevs.

        name: only this bdev: a name, alias or UUID (1 to 255 printable characters)
        timeout: ms to wait for it to appear (default: 0)

        Returns: in the order of registration; also for one bdev

        MethodError -1: it can't be called now
        MethodError -19: there is no such bdev
        MethodError -110: it did not appear in time
        MethodError -32602: parameters that do not fit
        """
        params = {
            "name": name,
            "timeout": timeout,
        }
        return await self._ask(list[results.Bdev], "bdev_get_bdevs", params, timeout_s)

    async def bdev_get_histogram(
        self,
        *,
        name: str,
        timeout_s: float | None = None,
    ) -> results.Histogram:
        """Returns a latency histogram that was enabled.

        name: bdev (1 to 255 printable characters)

        MethodError -1: it can't be called now
        MethodError -19: there is no such bdev
        MethodError -32602: parameters that do not fit
        MethodError -32603: the histogram is not enabled
        """
        params = {
            "name": name,
        }
        return await self._ask(results.Histogram, "bdev_get_histogram", params, timeout_s)

    async def bdev_get_histogram_borders(
        self,
        *,
        name: str,
        borders: list[int],
        timeout_s: float | None = None,
    ) -> results.BorderCounts:
        """Counts the I/Os whose latency is at most each border; the last count is that of all I/Os.

        A border falls into a bucket of the histogram: its I/Os are counted.

        name: bdev (1 to 255 printable characters)
        borders: latencies in microseconds, ascending

        MethodError -1: it can't be called now
        MethodError -19: there is no such bdev
        MethodError -22: no borders, too many, or not in ascending order
        MethodError -32602: parameters that do not fit
        MethodError -32603: the histogram is not enabled
        """
        params = {
            "name": name,
            "borders": borders,
        }
        return await self._ask(results.BorderCounts, "bdev_get_histogram_borders", params, timeout_s)

    async def bdev_get_iostat(
        self,
        *,
        names: list[str] | None = None,
        name: str | None = None,
        per_channel: bool | None = None,
        reset_mode: Literal["all", "maxmin", "error", "none"] | None = None,
        timeout_s: float | None = None,
    ) -> results.IoStat:
        """Returns I/O statistics.

        names: only these bdevs (1 to 255 printable characters)
        name: only this bdev; of older clients (1 to 255 printable characters)
        per_channel: by channel, for one bdev (default: false)
        reset_mode: what to reset after reading (default: "none")

        MethodError -1: it can't be called now
        MethodError -13: it needs the role admin
        MethodError -19: there is no such bdev
        MethodError -22: parameters that exclude each other, or per_channel without one bdev
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        params = {
            "names": names,
            "name": name,
            "per_channel": per_channel,
            "reset_mode": reset_mode,
        }
        return await self._ask(results.IoStat, "bdev_get_iostat", params, timeout_s)

    async def bdev_iscsi_set_options(
        self,
        *,
        timeout_s: float | None = None,
    ) -> bool:
        """Takes settings of iSCSI bdevs, which virtiod does not have. Changes nothing.

        Returns: true when it is done

        MethodError -13: it needs the role admin
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(bool, "bdev_iscsi_set_options", {}, timeout_s)

    async def bdev_null_create(
        self,
        *,
        name: str,
        num_blocks: int,
        block_size: int | None = None,
        uuid: str | None = None,
        physical_block_size: int | None = None,
        md_size: int | None = None,
        dif_type: int | None = None,
        dif_is_head_of_md: bool | None = None,
        dif_pi_format: int | None = None,
        preferred_write_granularity: int | None = None,
        preferred_write_alignment: int | None = None,
        optimal_write_size: int | None = None,
        preferred_unmap_granularity: int | None = None,
        preferred_unmap_alignment: int | None = None,
        timeout_s: float | None = None,
    ) -> str:
        """Creates a bdev that reads as zeroes and keeps nothing; its I/O succeeds at once.

        It serves to measure everything but a device. It has no metadata, and prefers no sizes: what SPDK's clients
            say of
        them is refused unless it asks for none. If the same one exists already, it stays.

        name: name of the bdev (1 to 255 printable characters)
        num_blocks: capacity in blocks
        block_size: bytes of a block (default: 512)
        uuid: of the bdev (default, and for the nil UUID: a random one)
        physical_block_size: of SPDK's; only block_size, or 0 (default: 0)
        md_size: of SPDK's; only 0, which is none (default: 0)
        dif_type: of SPDK's; only 0, which is none (default: 0)
        dif_is_head_of_md: of SPDK's; only false, as there is no metadata (default: false)
        dif_pi_format: of SPDK's; only 0, which is none (default: 0)
        preferred_write_granularity: of SPDK's; only 0, which is none (default: 0)
        preferred_write_alignment: of SPDK's; only 0, which is none (default: 0)
        optimal_write_size: of SPDK's; only 0, which is none (default: 0)
        preferred_unmap_granularity: of SPDK's; only 0, which is none (default: 0)
        preferred_unmap_alignment: of SPDK's; only 0, which is none (default: 0)

        Returns: its name

        MethodError -1: it can't be called now
        MethodError -13: it needs the role admin
        MethodError -17: another bdev has that name or UUID, or it exists otherwise
        MethodError -22: a size or UUID that is not valid
        MethodError -95: something that only SPDK's null bdevs have
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        params = {
            "name": name,
            "num_blocks": num_blocks,
            "block_size": block_size,
            "uuid": uuid,
            "physical_block_size": physical_block_size,
            "md_size": md_size,
            "dif_type": dif_type,
            "dif_is_head_of_md": dif_is_head_of_md,
            "dif_pi_format": dif_pi_format,
            "preferred_write_granularity": preferred_write_granularity,
            "preferred_write_alignment": preferred_write_alignment,
            "optimal_write_size": optimal_write_size,
            "preferred_unmap_granularity": preferred_unmap_granularity,
            "preferred_unmap_alignment": preferred_unmap_alignment,
        }
        return await self._ask(str, "bdev_null_create", params, timeout_s)

    async def bdev_null_delete(
        self,
        *,
        name: str,
        timeout_s: float | None = None,
    ) -> bool:
        """Deletes a null bdev. What uses it is ended first; the log says what that was.

        name: bdev (1 to 255 printable characters)

        Returns: true when it is done

        MethodError -1: it can't be called now
        MethodError -13: it needs the role admin
        MethodError -19: there is no such bdev
        MethodError -22: it is no null bdev
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        params = {
            "name": name,
        }
        return await self._ask(bool, "bdev_null_delete", params, timeout_s)

    async def bdev_nvme_set_hotplug(
        self,
        *,
        timeout_s: float | None = None,
    ) -> bool:
        """Takes settings of NVMe bdevs, which virtiod does not have. Changes nothing.

        Returns: true when it is done

        MethodError -13: it needs the role admin
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(bool, "bdev_nvme_set_hotplug", {}, timeout_s)

    async def bdev_nvme_set_options(
        self,
        *,
        timeout_s: float | None = None,
    ) -> bool:
        """Takes settings of NVMe bdevs, which virtiod does not have. Changes nothing.

        Returns: true when it is done

        MethodError -13: it needs the role admin
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(bool, "bdev_nvme_set_options", {}, timeout_s)

    async def bdev_raid_set_options(
        self,
        *,
        timeout_s: float | None = None,
    ) -> bool:
        """Takes settings of RAID bdevs, which virtiod does not have. Changes nothing.

        Returns: true when it is done

        MethodError -13: it needs the role admin
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(bool, "bdev_raid_set_options", {}, timeout_s)

    async def bdev_reset(
        self,
        *,
        name: str,
        timeout_s: float | None = None,
    ) -> bool:
        """Resets a bdev's unit: it drops its commands in flight, which are then sent again.

        SCSI disks know LOGICAL UNIT RESET; others can't be reset.

        name: bdev (1 to 255 printable characters)

        Returns: true when it is done

        MethodError -1: it can't be called now
        MethodError -5: the device refused
        MethodError -13: it needs the role admin
        MethodError -19: there is no such bdev
        MethodError -95: its device can't be reset
        MethodError -107: the device was lost
        MethodError -110: the device did not answer in time
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        params = {
            "name": name,
        }
        return await self._ask(bool, "bdev_reset", params, timeout_s)

    async def bdev_reset_iostat(
        self,
        *,
        name: str | None = None,
        mode: Literal["all", "maxmin", "error", "none"] | None = None,
        timeout_s: float | None = None,
    ) -> bool:
        """Resets what bdev_get_iostat shows. Metrics are not affected.

        name: only this bdev (1 to 255 printable characters)
        mode: what to reset (default: "all")

        Returns: true when it is done

        MethodError -1: it can't be called now
        MethodError -13: it needs the role admin
        MethodError -19: there is no such bdev
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        params = {
            "name": name,
            "mode": mode,
        }
        return await self._ask(bool, "bdev_reset_iostat", params, timeout_s)

    async def bdev_set_options(
        self,
        *,
        bdev_io_pool_size: int | None = None,
        bdev_io_cache_size: int | None = None,
        bdev_auto_examine: bool | None = None,
        iobuf_small_cache_size: int | None = None,
        iobuf_large_cache_size: int | None = None,
        timeout_s: float | None = None,
    ) -> bool:
        """Takes the options of SPDK's bdev layer, so that its configuration files can be used.

        virtiod sizes its pools by itself: the values are kept and saved, and change nothing.

        bdev_io_pool_size: remembered only
        bdev_io_cache_size: remembered only
        bdev_auto_examine: remembered only
        iobuf_small_cache_size: remembered only
        iobuf_large_cache_size: remembered only

        Returns: true when it is done

        MethodError -1: it can't be called now
        MethodError -13: it needs the role admin
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        params = {
            "bdev_io_pool_size": bdev_io_pool_size,
            "bdev_io_cache_size": bdev_io_cache_size,
            "bdev_auto_examine": bdev_auto_examine,
            "iobuf_small_cache_size": iobuf_small_cache_size,
            "iobuf_large_cache_size": iobuf_large_cache_size,
        }
        return await self._ask(bool, "bdev_set_options", params, timeout_s)

    async def bdev_set_qd_sampling_period(
        self,
        *,
        name: str,
        period: int,
        timeout_s: float | None = None,
    ) -> bool:
        """Sets the period that bdev_get_iostat names. The queue depth and I/O times that it shows are exact anyway.

        name: bdev (1 to 255 printable characters)
        period: microseconds; 0 hides the queue depth

        Returns: true when it is done

        MethodError -1: it can't be called now
        MethodError -13: it needs the role admin
        MethodError -19: there is no such bdev
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        params = {
            "name": name,
            "period": period,
        }
        return await self._ask(bool, "bdev_set_qd_sampling_period", params, timeout_s)

    async def bdev_virtio_attach_controller(
        self,
        *,
        name: str,
        trtype: Literal["pci", "user"],
        traddr: str,
        dev_type: Literal["blk", "scsi"],
        vq_count: int | None = None,
        vq_size: int | None = None,
        wait_for_device: bool | None = None,
        on_loss: Literal["keep", "report", "ignore"] | None = None,
        timeout_s: float | None = None,
    ) -> list[str]:
        """Attaches a virtio controller and registers its bdevs.

        An attach that fails leaves nothing behind. If the same controller exists already, it stays. With
            wait_for_device,
        an absent or silent device is no failure: the answer has no names, and the controller keeps trying, in state
        "attaching", until the device is there or it is detached.

        name: name of the controller; its bdevs' names begin with it (1 to 245 printable characters)
        trtype: transport
        traddr: socket path, or PCI address
        dev_type: kind of device
        vq_count: request queues, with user only (default: one for each poller)
        vq_size: entries of a virtqueue, a power of two, with user only
        wait_for_device: if nothing is there, attach it when it appears (default: false)
        on_loss: what becomes of writes that were acknowledged but not flushed when the device is lost: keep (virtiod
            keeps and writes them again), report (the next flush of each user fails) or ignore (default: "keep")

        Returns: names of its bdevs

        MethodError -1: it can't be called now
        MethodError -13: it needs the role admin
        MethodError -17: another controller drives the device already
        MethodError -22: an address that is not valid, or options that the transport does not take
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: the device could not be attached, or parameters that are not valid
        MethodError -32603: parameters that do not fit
        """
        params = {
            "name": name,
            "trtype": trtype,
            "traddr": traddr,
            "dev_type": dev_type,
            "vq_count": vq_count,
            "vq_size": vq_size,
            "wait_for_device": wait_for_device,
            "on_loss": on_loss,
        }
        return await self._ask(list[str], "bdev_virtio_attach_controller", params, timeout_s)

    async def bdev_virtio_blk_set_hotplug(
        self,
        *,
        enable: bool,
        period_us: int | None = None,
        timeout_s: float | None = None,
    ) -> bool:
        """Sets whether PCI virtio-blk devices that arrive are attached, as VirtioBlk0, VirtioBlk1 and so on.

        One that the kernel's driver has is taken from it only with --allow-unbind, and if its disk is not in use.
            The
        kernel reports arrivals at once; the period, by default 100 ms, is how often virtiod checks for missed ones.
            Removed
        devices are noticed whether this is enabled or not.

        enable: whether to attach new PCI devices
        period_us: microseconds between checks

        Returns: true when it is done

        MethodError -1: it can't be called now
        MethodError -13: it needs the role admin
        MethodError -22: a period that is not valid
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        params = {
            "enable": enable,
            "period_us": period_us,
        }
        return await self._ask(bool, "bdev_virtio_blk_set_hotplug", params, timeout_s)

    async def bdev_virtio_detach_controller(
        self,
        *,
        name: str,
        timeout_s: float | None = None,
    ) -> bool:
        """Detaches a controller and deletes its bdevs. What uses them is ended first; the log says what that was.

        name: controller (1 to 255 printable characters)

        Returns: true when it is done

        MethodError -1: it can't be called now
        MethodError -13: it needs the role admin
        MethodError -19: there is no such controller
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: it is being detached already
        MethodError -32603: parameters that do not fit
        """
        params = {
            "name": name,
        }
        return await self._ask(bool, "bdev_virtio_detach_controller", params, timeout_s)

    async def bdev_virtio_scsi_get_devices(
        self,
        *,
        timeout_s: float | None = None,
    ) -> list[results.ScsiController]:
        """Lists the virtio-scsi controllers.

        Returns: in the order of their attach

        MethodError -1: it can't be called now
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(list[results.ScsiController], "bdev_virtio_scsi_get_devices", {}, timeout_s)

    async def bdev_wait_for_examine(
        self,
        *,
        timeout_s: float | None = None,
    ) -> bool:
        """Answers when all bdevs were examined: at once, as nothing is built on top of bdevs.

        Returns: true when it is done

        MethodError -1: it can't be called now
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(bool, "bdev_wait_for_examine", {}, timeout_s)

    async def env_dpdk_get_mem_stats(
        self,
        *,
        timeout_s: float | None = None,
    ) -> results.WrittenFile:
        """Writes what DMA memory there is, and how much of it is in use, to a text file beside the RPC socket.

        The file is replaced each time. (SPDK's clients give the method its name: virtiod does not use DPDK.)

        MethodError -1: it can't be called now
        MethodError -5: the file could not be written; also any other -errno
        MethodError -13: it needs the role admin
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(results.WrittenFile, "env_dpdk_get_mem_stats", {}, timeout_s)

    async def framework_get_config(
        self,
        *,
        name: str,
        with_batches: bool | None = None,
        timeout_s: float | None = None,
    ) -> list[results.ConfigCall]:
        """Returns the calls that bring a subsystem into its present state.

        name: subsystem (1 to 255 printable characters)
        with_batches: accepted for SPDK's clients; there are no batches (default: false)

        Returns: in the order in which they are to be made

        MethodError -1: it can't be called now
        MethodError -32602: parameters that do not fit, or there is no such subsystem
        """
        params = {
            "name": name,
            "with_batches": with_batches,
        }
        return await self._ask(list[results.ConfigCall], "framework_get_config", params, timeout_s)

    async def framework_get_governor(
        self,
        *,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Describes the governor of the cores' frequencies. virtiod has none, and leaves them to the kernel.

        Returns: empty: there is no governor

        MethodError -1: it can't be called now
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(dict[str, Any], "framework_get_governor", {}, timeout_s)

    async def framework_get_reactors(
        self,
        *,
        timeout_s: float | None = None,
    ) -> results.Reactors:
        """Returns what each poller's core does.

        MethodError -1: it can't be called now
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(results.Reactors, "framework_get_reactors", {}, timeout_s)

    async def framework_get_scheduler(
        self,
        *,
        timeout_s: float | None = None,
    ) -> results.Scheduler:
        """Says how pollers are given to cores: each stays on its own.

        MethodError -32602: parameters that do not fit
        """
        return await self._ask(results.Scheduler, "framework_get_scheduler", {}, timeout_s)

    async def framework_get_subsystems(
        self,
        *,
        timeout_s: float | None = None,
    ) -> list[results.Subsystem]:
        """Lists the subsystems that have a configuration.

        Returns: each after those that it depends on

        MethodError -1: it can't be called now
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(list[results.Subsystem], "framework_get_subsystems", {}, timeout_s)

    async def framework_set_scheduler(
        self,
        *,
        name: Literal["static"],
        mappings: str | None = None,
        timeout_s: float | None = None,
    ) -> bool:
        """Takes the scheduler that virtiod has: the option -m says which cores have pollers. Changes nothing.

        name: only static: each poller stays on its core
        mappings: of SPDK's; only an empty one (default: "")

        Returns: true when it is done

        MethodError -13: it needs the role admin
        MethodError -95: mappings were given
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        params = {
            "name": name,
            "mappings": mappings,
        }
        return await self._ask(bool, "framework_set_scheduler", params, timeout_s)

    async def framework_start_init(
        self,
        *,
        timeout_s: float | None = None,
    ) -> bool:
        """Starts a daemon that was started with --wait-for-rpc. Answers when it runs.

        Returns: true when it is done

        MethodError -1: it can't be called now
        MethodError -5: it failed; also any other -errno
        MethodError -13: it needs the role admin
        MethodError -16: it has begun already
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(bool, "framework_start_init", {}, timeout_s)

    async def framework_wait_init(
        self,
        *,
        timeout_s: float | None = None,
    ) -> bool:
        """Answers when the daemon runs: at once if it does.

        Returns: true when it is done

        MethodError -32602: parameters that do not fit
        """
        return await self._ask(bool, "framework_wait_init", {}, timeout_s)

    async def fsdev_set_opts(
        self,
        *,
        timeout_s: float | None = None,
    ) -> bool:
        """Takes settings of SPDK's file system devices, which virtiod does not have. Changes nothing.

        Returns: true when it is done

        MethodError -13: it needs the role admin
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(bool, "fsdev_set_opts", {}, timeout_s)

    async def iobuf_get_stats(
        self,
        *,
        timeout_s: float | None = None,
    ) -> list[results.BufferUse]:
        """Returns how often data buffers were taken, and how often there were too few.

        Returns: one entry, for all buffers

        MethodError -1: it can't be called now
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(list[results.BufferUse], "iobuf_get_stats", {}, timeout_s)

    async def iobuf_set_options(
        self,
        *,
        timeout_s: float | None = None,
    ) -> bool:
        """Takes settings of SPDK's pools of buffers, which virtiod does not have. Changes nothing.

        Returns: true when it is done

        MethodError -13: it needs the role admin
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(bool, "iobuf_set_options", {}, timeout_s)

    async def iscsi_set_options(
        self,
        *,
        timeout_s: float | None = None,
    ) -> bool:
        """Takes settings of SPDK's iSCSI target, which virtiod does not have. Changes nothing.

        Returns: true when it is done

        MethodError -13: it needs the role admin
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(bool, "iscsi_set_options", {}, timeout_s)

    async def keyring_linux_set_options(
        self,
        *,
        timeout_s: float | None = None,
    ) -> bool:
        """Takes settings of keys of the kernel, which virtiod does not have. Changes nothing.

        Returns: true when it is done

        MethodError -13: it needs the role admin
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(bool, "keyring_linux_set_options", {}, timeout_s)

    async def log_clear_flag(
        self,
        *,
        flag: str,
        timeout_s: float | None = None,
    ) -> bool:
        """Ends what log_set_flag began.

        flag: part of the daemon, as listed by log_get_flags, or "all" (1 to 255 printable characters)

        Returns: true when it is done

        MethodError -13: it needs the role admin
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit, or there is no such flag
        """
        params = {
            "flag": flag,
        }
        return await self._ask(bool, "log_clear_flag", params, timeout_s)

    async def log_get_flags(
        self,
        *,
        timeout_s: float | None = None,
    ) -> dict[str, bool]:
        """Returns which parts of the daemon log everything, whatever the levels are.

        Returns: by flag: whether it is set

        MethodError -32602: parameters that do not fit
        """
        return await self._ask(dict[str, bool], "log_get_flags", {}, timeout_s)

    async def log_get_level(
        self,
        *,
        timeout_s: float | None = None,
    ) -> str:
        """Returns the level from which messages are made.

        Returns: log level: ERROR, WARNING, NOTICE, INFO or DEBUG

        MethodError -32602: parameters that do not fit
        """
        return await self._ask(str, "log_get_level", {}, timeout_s)

    async def log_get_print_level(
        self,
        *,
        timeout_s: float | None = None,
    ) -> str:
        """Returns the level from which messages are printed on standard error.

        Returns: log level: ERROR, WARNING, NOTICE, INFO or DEBUG

        MethodError -32602: parameters that do not fit
        """
        return await self._ask(str, "log_get_print_level", {}, timeout_s)

    async def log_set_flag(
        self,
        *,
        flag: str,
        timeout_s: float | None = None,
    ) -> bool:
        """Has a part of the daemon log everything.

        flag: part of the daemon, as listed by log_get_flags, or "all" (1 to 255 printable characters)

        Returns: true when it is done

        MethodError -13: it needs the role admin
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit, or there is no such flag
        """
        params = {
            "flag": flag,
        }
        return await self._ask(bool, "log_set_flag", params, timeout_s)

    async def log_set_level(
        self,
        *,
        level: Literal["ERROR", "WARNING", "NOTICE", "INFO", "DEBUG"],
        timeout_s: float | None = None,
    ) -> bool:
        """Sets the level from which messages are made.

        level: log level

        Returns: true when it is done

        MethodError -13: it needs the role admin
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        params = {
            "level": level,
        }
        return await self._ask(bool, "log_set_level", params, timeout_s)

    async def log_set_print_level(
        self,
        *,
        level: Literal["ERROR", "WARNING", "NOTICE", "INFO", "DEBUG"],
        timeout_s: float | None = None,
    ) -> bool:
        """Sets the level from which messages are printed on standard error.

        level: log level

        Returns: true when it is done

        MethodError -13: it needs the role admin
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        params = {
            "level": level,
        }
        return await self._ask(bool, "log_set_print_level", params, timeout_s)

    async def nbd_create_export(
        self,
        *,
        bdev_name: str,
        name: str | None = None,
        read_only: bool | None = None,
        description: str | None = None,
        max_connections: int | None = None,
        timeout_s: float | None = None,
    ) -> results.NbdExport:
        """Offers a bdev to NBD clients.

        If the same export exists already, it stays.

        bdev_name: bdev to export (1 to 255 printable characters)
        name: export name (default: what bdev_name says) (1 to 255 printable characters)
        read_only: refuse writes (default: false)
        description: shown to clients that list exports (default: "")
        max_connections: most connections at the same time (default: 64)

        MethodError -1: it can't be called now
        MethodError -13: it needs the role admin
        MethodError -16: there are too many exports
        MethodError -17: an export has that name, and is not the same
        MethodError -19: there is no such bdev
        MethodError -22: a name, description or number that is not valid
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        params = {
            "bdev_name": bdev_name,
            "name": name,
            "read_only": read_only,
            "description": description,
            "max_connections": max_connections,
        }
        return await self._ask(results.NbdExport, "nbd_create_export", params, timeout_s)

    async def nbd_delete_export(
        self,
        *,
        name: str,
        timeout_s: float | None = None,
    ) -> bool:
        """Ends an export: requests in flight are answered, then its connections are closed; the log says whose.

        name: export (1 to 255 printable characters)

        Returns: true when it is done

        MethodError -1: it can't be called now
        MethodError -13: it needs the role admin
        MethodError -19: there is no such export
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        params = {
            "name": name,
        }
        return await self._ask(bool, "nbd_delete_export", params, timeout_s)

    async def nbd_get_exports(
        self,
        *,
        name: str | None = None,
        timeout_s: float | None = None,
    ) -> list[results.NbdExport]:
        """Lists the NBD exports, with the addresses that clients connect to.

        name: only this export (1 to 255 printable characters)

        Returns: in the order of creation

        MethodError -1: it can't be called now
        MethodError -19: there is no such export
        MethodError -32602: parameters that do not fit
        """
        params = {
            "name": name,
        }
        return await self._ask(list[results.NbdExport], "nbd_get_exports", params, timeout_s)

    async def notify_get_notifications(
        self,
        *,
        id: int | None = None,
        max: int | None = None,
        timeout_s: float | None = None,
    ) -> list[results.Notification]:
        """Lists notifications from an id on: the last 1024 are kept.

        id: first id wanted (default: 0)
        max: at most so many (default: 1024)

        Returns: the oldest first

        MethodError -1: it can't be called now
        MethodError -32602: parameters that do not fit
        """
        params = {
            "id": id,
            "max": max,
        }
        return await self._ask(list[results.Notification], "notify_get_notifications", params, timeout_s)

    async def notify_get_types(
        self,
        *,
        timeout_s: float | None = None,
    ) -> list[str]:
        """Lists the types of notifications.

        Returns: their names

        MethodError -1: it can't be called now
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(list[str], "notify_get_types", {}, timeout_s)

    async def nvmf_set_config(
        self,
        *,
        timeout_s: float | None = None,
    ) -> bool:
        """Takes settings of SPDK's NVMe-oF target, which virtiod does not have. Changes nothing.

        Returns: true when it is done

        MethodError -13: it needs the role admin
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(bool, "nvmf_set_config", {}, timeout_s)

    async def nvmf_set_crdt(
        self,
        *,
        timeout_s: float | None = None,
    ) -> bool:
        """Takes settings of SPDK's NVMe-oF target, which virtiod does not have. Changes nothing.

        Returns: true when it is done

        MethodError -13: it needs the role admin
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(bool, "nvmf_set_crdt", {}, timeout_s)

    async def nvmf_set_max_subsystems(
        self,
        *,
        timeout_s: float | None = None,
    ) -> bool:
        """Takes settings of SPDK's NVMe-oF target, which virtiod does not have. Changes nothing.

        Returns: true when it is done

        MethodError -13: it needs the role admin
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(bool, "nvmf_set_max_subsystems", {}, timeout_s)

    async def perform_tests(
        self,
        *,
        bdevs: list[str],
        rw: Literal["randread", "randwrite", "randrw", "read", "write", "verify"] | None = None,
        block_size: int | None = None,
        queue_depth: int | None = None,
        time_s: float | None = None,
        total_bytes: int | None = None,
        rw_mix_read: int | None = None,
        seed: int | None = None,
        cpumask: str | None = None,
        force: bool | None = None,
        timeout_s: float | None = None,
    ) -> results.LoadReport:
        """Loads bdevs and measures what they do.

        Patterns that write destroy what is on the bdevs. They are refused on a bdev that an export has clients for,
            that
        another load uses, or that is exported read-only; the error says who uses it. While they run, clients that
            connect
        are refused. With force they run whoever uses the bdevs, and keep nobody away. Patterns that only read always
            run.
        Ends after time_s or total_bytes, whichever comes first; after 5 s when neither is given.

        bdevs: bdevs to load, all at once (1 to 255 printable characters)
        rw: pattern (default: "randread")
        block_size: bytes of an I/O (default: 4096)
        queue_depth: I/Os in flight on each bdev and poller (default: 32)
        time_s: seconds to run
        total_bytes: bytes to transfer on each bdev
        rw_mix_read: percentage of reads with randrw (default: 50)
        seed: of addresses and data
        cpumask: pollers to use, by core (default: all)
        force: write also to what is in use or exported read-only (default: false)

        MethodError -1: it can't be called now
        MethodError -12: there is no memory for so many I/Os
        MethodError -13: it needs the role admin
        MethodError -16: a load that writes, without force, to a bdev that is in use or exported read-only
        MethodError -19: there is no such bdev
        MethodError -22: a load that is not valid, or that a bdev can't take
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        params = {
            "bdevs": bdevs,
            "rw": rw,
            "block_size": block_size,
            "queue_depth": queue_depth,
            "time_s": time_s,
            "total_bytes": total_bytes,
            "rw_mix_read": rw_mix_read,
            "seed": seed,
            "cpumask": cpumask,
            "force": force,
        }
        return await self._ask(results.LoadReport, "perform_tests", params, timeout_s)

    async def rpc_discover(
        self,
        *,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Describes the methods: their parameters, results and errors.

        The document follows https://spec.open-rpc.org, version 1.3. Tools make clients and documentation of it.

        Returns: an OpenRPC document

        MethodError -32602: parameters that do not fit
        """
        return await self._ask(dict[str, Any], "rpc.discover", {}, timeout_s)

    async def rpc_get_methods(
        self,
        *,
        current: bool | None = None,
        include_aliases: bool | None = None,
        timeout_s: float | None = None,
    ) -> list[str]:
        """Lists the names of the methods.

        current: only those that can be called in the current state (default: false)
        include_aliases: other names of methods too (default: false)

        Returns: names of methods, sorted

        MethodError -32602: parameters that do not fit
        """
        params = {
            "current": current,
            "include_aliases": include_aliases,
        }
        return await self._ask(list[str], "rpc_get_methods", params, timeout_s)

    async def sock_impl_set_options(
        self,
        *,
        timeout_s: float | None = None,
    ) -> bool:
        """Takes settings of SPDK's sockets, which virtiod does not have. Changes nothing.

        Returns: true when it is done

        MethodError -13: it needs the role admin
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(bool, "sock_impl_set_options", {}, timeout_s)

    async def sock_set_default_impl(
        self,
        *,
        timeout_s: float | None = None,
    ) -> bool:
        """Takes settings of SPDK's sockets, which virtiod does not have. Changes nothing.

        Returns: true when it is done

        MethodError -13: it needs the role admin
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(bool, "sock_set_default_impl", {}, timeout_s)

    async def spdk_get_version(
        self,
        *,
        timeout_s: float | None = None,
    ) -> results.Version:
        """Returns the version of virtiod.

        MethodError -32602: parameters that do not fit
        """
        return await self._ask(results.Version, "spdk_get_version", {}, timeout_s)

    async def spdk_kill_instance(
        self,
        *,
        sig_name: Literal["SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGKILL", "SIGUSR1"],
        timeout_s: float | None = None,
    ) -> bool:
        """Sends the daemon a signal.

        SIGTERM, SIGINT and SIGQUIT end it in an orderly way, a second one at once; SIGHUP has it read its
            configuration
        again, SIGUSR1 log its Python stacks; SIGKILL kills it.

        sig_name: signal to send

        Returns: true when it is done

        MethodError -13: it needs the role admin
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        params = {
            "sig_name": sig_name,
        }
        return await self._ask(bool, "spdk_kill_instance", params, timeout_s)

    async def thread_get_io_channels(
        self,
        *,
        timeout_s: float | None = None,
    ) -> results.IoChannels:
        """Lists the bdevs that have a channel on each poller.

        MethodError -1: it can't be called now
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(results.IoChannels, "thread_get_io_channels", {}, timeout_s)

    async def thread_get_pollers(
        self,
        *,
        timeout_s: float | None = None,
    ) -> results.ThreadPollers:
        """Lists what each poller polls: queues and connections.

        MethodError -1: it can't be called now
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(results.ThreadPollers, "thread_get_pollers", {}, timeout_s)

    async def thread_get_stats(
        self,
        *,
        timeout_s: float | None = None,
    ) -> results.ThreadStats:
        """Returns how long each poller was busy and idle.

        MethodError -1: it can't be called now
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(results.ThreadStats, "thread_get_stats", {}, timeout_s)

    async def virtiod_get_controllers(
        self,
        *,
        name: str | None = None,
        timeout_s: float | None = None,
    ) -> list[results.Controller]:
        """Lists the controllers with their state and queues.

        name: only this controller (1 to 255 printable characters)

        Returns: in the order of their attach

        MethodError -1: it can't be called now
        MethodError -19: there is no such controller
        MethodError -32602: parameters that do not fit
        """
        params = {
            "name": name,
        }
        return await self._ask(list[results.Controller], "virtiod_get_controllers", params, timeout_s)

    async def virtiod_get_log(
        self,
        *,
        timeout_s: float | None = None,
    ) -> results.LogState:
        """Returns how many messages could not be written to the log.

        MethodError -32602: parameters that do not fit
        """
        return await self._ask(results.LogState, "virtiod_get_log", {}, timeout_s)

    async def virtiod_get_pollers(
        self,
        *,
        timeout_s: float | None = None,
    ) -> results.Pollers:
        """Returns each poller's core, mode and times.

        MethodError -1: it can't be called now
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(results.Pollers, "virtiod_get_pollers", {}, timeout_s)

    async def virtiod_reload_config(
        self,
        *,
        timeout_s: float | None = None,
    ) -> results.ReloadedConfig:
        """Reads the file of -c again: creates what is new, deletes what was removed, replaces what changed.

        Everything else keeps running, and what RPC created stays. If something fails, the rest is still done, and
            the
        answer is an error that lists the failures.

        MethodError -1: it can't be called now
        MethodError -13: it needs the role admin
        MethodError -22: something failed; the message lists it
        MethodError -32001: it changed something, which could not be saved
        MethodError -32602: parameters that do not fit
        """
        return await self._ask(results.ReloadedConfig, "virtiod_reload_config", {}, timeout_s)
