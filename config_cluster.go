package main

import (
	"fmt"
	"regexp"

	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/backend/redisconn"
)

// Cluster configures a process of a cluster.
type Cluster struct {
	// Instance is the name of this process in the ring; default the host name.
	Instance string `yaml:"instance"`
	// Advertise is the host:port of rpc_listen for other processes; default the host name and
	// the port of rpc_listen.
	Advertise   string `yaml:"advertise"`
	Zone        string `yaml:"zone"`
	Replication int    `yaml:"replication"` // number of ingesters per series
	// Redis stores the ring. CacheRedis stores values that may be evicted, such as results of
	// queries; default the same server, but then results are cached in memory only.
	Redis      redisconn.Config `yaml:"redis"`
	CacheRedis redisconn.Config `yaml:"cache_redis"`
	TLS        cluster.TLSFiles `yaml:"tls"` // certificates between processes
	// PlainText disables encryption between processes.
	PlainText bool `yaml:"insecure_plain_text"`
}

var instanceName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._-]{0,126}[a-zA-Z0-9])?$`)

func (c *Cluster) check() error {
	switch {
	case c.Instance != "" && !instanceName.MatchString(c.Instance):
		return fmt.Errorf("instance %q must be 1 to 128 letters, digits, '.', '_' and '-', and begin and end with a letter or digit", c.Instance)
	case c.Zone != "" && !instanceName.MatchString(c.Zone):
		return fmt.Errorf("zone %q must be 1 to 128 letters, digits, '.', '_' and '-', and begin and end with a letter or digit", c.Zone)
	case c.Replication < 1 || c.Replication > 7 || c.Replication%2 == 0:
		return fmt.Errorf("replication is %d; choose 1, 3, 5 or 7", c.Replication)
	}
	if err := c.Redis.Check(); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	if err := c.CacheRedis.Check(); err != nil {
		return fmt.Errorf("cache_redis: %w", err)
	}
	return nil
}
