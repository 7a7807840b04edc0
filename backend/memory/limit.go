package memory

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"math"
	"path"
	"strconv"
	"strings"
)

// Limit returns the bytes of memory that this process may use: the minimum of the
// machine's memory and the limits of the process's control group and its parents,
// in version 1 and 2. root is the root of the file system. It returns 0 if the
// limit is unknown.
func Limit(root fs.FS) int64 {
	least := int64(math.MaxInt64)
	if n := machine(root); n > 0 {
		least = n
	}
	for _, g := range groups(root) {
		if n := number(root, g); n > 0 {
			least = min(least, n)
		}
	}
	if least == math.MaxInt64 {
		return 0
	}
	return least
}

// groups returns the paths of the files with limits for the process: the files of its
// own group and of all parents. A container sees its own group as the root of the
// mount, or the whole tree and its path in it.
func groups(root fs.FS) []string {
	var out []string
	own := ownGroups(root)
	for _, m := range mounts(root) {
		file := "memory.max"
		if m.v1 {
			file = "memory.limit_in_bytes"
		}
		group, ok := own[m.v1]
		if !ok {
			group = "/"
		}
		// The mount shows the tree below m.group.
		if inside, found := strings.CutPrefix(group, m.group); found && m.group != "/" {
			group = path.Join("/", inside)
		}
		for {
			out = append(out, strings.TrimPrefix(path.Join(m.dir, group, file), "/"))
			if group == "/" || group == "." {
				break
			}
			group = path.Dir(group)
		}
	}
	return out
}

// ownGroups returns the process's group in the memory controller of version 1
// (true) and in version 2 (false), from /proc/self/cgroup.
func ownGroups(root fs.FS) map[bool]string {
	out := map[bool]string{}
	eachLine(root, "proc/self/cgroup", func(line string) {
		part := strings.SplitN(line, ":", 3) // number:controllers:path
		if len(part) != 3 {
			return
		}
		group := path.Clean("/" + part[2]) // a group outside of the namespace begins with /..
		if part[0] == "0" && part[1] == "" {
			out[false] = group
			return
		}
		for _, c := range strings.Split(part[1], ",") {
			if c == "memory" {
				out[true] = group
			}
		}
	})
	return out
}

// mount is a mount point of a control group hierarchy.
type mount struct {
	dir, group string // mount point, and the group that is its root
	v1         bool
}

// mounts returns the mounts in /proc/self/mountinfo (see proc(5)).
func mounts(root fs.FS) []mount {
	var out []mount
	eachLine(root, "proc/self/mountinfo", func(line string) {
		before, after, ok := strings.Cut(line, " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 3 {
			return
		}
		m := mount{dir: unescape(fields[4]), group: unescape(fields[3])}
		switch {
		case kind[0] == "cgroup2":
		case kind[0] == "cgroup" && strings.Contains(","+kind[2]+",", ",memory,"):
			m.v1 = true
		default:
			return
		}
		out = append(out, m)
	})
	return out
}

// unescape decodes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// number reads a file with one number, or returns 0 if there is none. A group
// without a limit has "max", or a number near the largest.
func number(root fs.FS, name string) int64 {
	data, err := fs.ReadFile(root, name)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(data)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func machine(root fs.FS) int64 {
	total := int64(0)
	eachLine(root, "proc/meminfo", func(line string) {
		var kb int64
		if n, _ := fmt.Sscanf(line, "MemTotal: %d kB", &kb); n == 1 {
			total = kb << 10
		}
	})
	return total
}

func eachLine(root fs.FS, name string, fn func(string)) {
	data, err := fs.ReadFile(root, name)
	if err != nil {
		return
	}
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		fn(s.Text())
	}
}
