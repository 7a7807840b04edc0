package conn

import (
	"crypto/tls"
	"fmt"
	"sync/atomic"
)

// Certificate is the edge's certificate, which can be reloaded while serving. Load must
// be called before Get. It is safe for concurrent use.
type Certificate struct {
	CertFile, KeyFile string

	current atomic.Pointer[tls.Certificate]
}

// Load reads the files; on an error the previous certificate stays in use.
func (c *Certificate) Load() error {
	pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return fmt.Errorf("tls: load certificate: %w", err)
	}
	c.current.Store(&pair)
	return nil
}

// Get implements tls.Config.GetCertificate.
func (c *Certificate) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.current.Load(), nil
}
