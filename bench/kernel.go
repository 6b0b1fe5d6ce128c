package main

import (
	"os"
	"strconv"
	"strings"
)

// socketCaches are what the kernel allocates for every TCP connection: its state, its inode, its file, its place in an
// epoll set, and what is on its way. A name that a kernel has merged into another cache is left out.
var socketCaches = map[string]bool{
	"TCP": true, "sock_inode_cache": true, "filp": true, "eventpoll_epi": true,
	"skbuff_head_cache": true, "skbuff_small_head": true, "skbuff_fclone_cache": true,
}

// kernelMemory is what the TCP connections of this machine take in the kernel, in bytes: objects from /proc/slabinfo,
// which only root may read, and buffers from /proc/net/sockstat. It can't say whose they are.
func kernelMemory() (int64, error) {
	slabs, err := os.ReadFile("/proc/slabinfo")
	if err != nil {
		return 0, err
	}
	sum := int64(0)
	for line := range strings.Lines(string(slabs)) {
		f := strings.Fields(line)
		if len(f) < 4 || !socketCaches[f[0]] {
			continue
		}
		objects, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return 0, err
		}
		size, err := strconv.ParseInt(f[3], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += objects * size
	}
	stat, err := os.ReadFile("/proc/net/sockstat")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(stat)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "TCP:" && f[len(f)-2] == "mem" {
			pages, err := strconv.ParseInt(f[len(f)-1], 10, 64)
			if err != nil {
				return 0, err
			}
			sum += pages * int64(os.Getpagesize())
		}
	}
	return sum, nil
}

// footprint is what connections to a process take.
type footprint struct{ resident, kernel int64 }

// footprint is the process's memory and that of all TCP connections of the machine.
func (p *process) footprint() (f footprint, err error) {
	if f.resident, err = p.memory(); err != nil {
		return f, err
	}
	f.kernel, err = kernelMemory()
	if os.IsPermission(err) {
		f.kernel, err = 0, nil // shown as 0
	}
	return f, err
}

// each is the growth since before for each of n connections. Both ends of a connection are on this machine and weigh
// the same, so half of the kernel's is the process's.
func (f footprint) each(before footprint, n int) (resident, kernel float64) {
	return float64(f.resident-before.resident) / float64(n), float64(f.kernel-before.kernel) / float64(2*n)
}
