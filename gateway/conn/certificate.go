package conn

import (
	"crypto/tls"
	"fmt"
	"sync/atomic"
)

// Certificate is the edge's certificate, which can be exchanged while serving.
// Load it before Get is used. It is safe for concurrent use.
type Certificate struct {
	CertFile, KeyFile string

	current atomic.Pointer[tls.Certificate]
}

// Load reads the files; on an error the certificate stays as it was.
func (c *Certificate) Load() error {
	pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	c.current.Store(&pair)
	return nil
}

// Get is for tls.Config.GetCertificate.
func (c *Certificate) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.current.Load(), nil
}
