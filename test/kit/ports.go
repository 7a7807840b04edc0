package kit

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Ports are below those that the system assigns to outgoing connections. Otherwise such a
// connection could occupy the port of a process while the process restarts.
const lowest, highest = 10_000, 30_000

// FreePort returns a port of the loopback interface on which nothing listens and that
// no other call has returned, in this process or in another running one. Tests reserve
// all ports of a cluster before they start the first process, and the tests of several
// packages run at once.
func FreePort() (string, error) {
	return between(lowest, highest)
}

func between(low, high int) (string, error) {
	err := errors.New("all ports are in use")
	for range 100 {
		port := strconv.Itoa(low + rand.IntN(high-low))
		mine, reserveErr := reserve(port)
		if reserveErr != nil {
			return "", fmt.Errorf("reserve port %s: %w", port, reserveErr)
		}
		if !mine {
			continue
		}
		var l net.Listener
		if l, err = net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			return port, l.Close()
		}
	}
	return "", fmt.Errorf("find a free port: %w", err)
}

// reserve acquires the lock file of a port and holds it until this process ends: the
// file is never closed, and child processes do not inherit it.
func reserve(port string) (bool, error) {
	dir := filepath.Join(os.TempDir(), "pallium-test-ports-"+strconv.Itoa(os.Getuid()))
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return false, err
	}
	fd, err := syscall.Open(filepath.Join(dir, port), syscall.O_CREAT|syscall.O_RDWR|syscall.O_CLOEXEC, 0o666)
	if err != nil {
		return false, err
	}
	err = syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return true, nil
	}
	_ = syscall.Close(fd)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return false, err
}
