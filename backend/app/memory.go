package app

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// memoryBudget is half of the memory that the machine or its container has: the
// rest is for queries, for the collector's headroom and for the page cache.
func memoryBudget() int64 {
	total := containerMemory()
	if m := machineMemory(); total == 0 || (m > 0 && m < total) {
		total = m
	}
	return total / 2
}

func containerMemory() int64 {
	data, err := os.ReadFile("/sys/fs/cgroup/memory.max")
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0 // "max": no limit
	}
	return n
}

func machineMemory() int64 {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var kb int64
		if n, _ := fmt.Sscanf(s.Text(), "MemTotal: %d kB", &kb); n == 1 {
			return kb << 10
		}
	}
	return 0
}
