package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"

	"github.com/palliumhq/pallium/authn/cluster"
)

// protocol is what both ends of a connection say they speak (RFC 9113).
const protocol = "h2"

// proof are gRPC's credentials of a member of the cluster: a connection is one
// between members, or there is none.
type proof struct{ member *cluster.Member }

// ClientHandshake implements credentials.TransportCredentials.
func (p proof) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	host, _, err := net.SplitHostPort(authority)
	if err != nil {
		host = authority
	}
	conn, err := p.member.Client(ctx, raw, host, protocol)
	return conn, info(conn), err
}

// ServerHandshake implements credentials.TransportCredentials.
func (p proof) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, err := p.member.Server(context.Background(), raw, protocol)
	return conn, info(conn), err
}

func info(conn net.Conn) credentials.AuthInfo {
	if secured, ok := conn.(*tls.Conn); ok {
		return credentials.TLSInfo{
			State:          secured.ConnectionState(),
			CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		}
	}
	return plain{credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}}
}

// plain is the information of a connection that is not encrypted.
type plain struct{ credentials.CommonAuthInfo }

// AuthType implements credentials.AuthInfo.
func (plain) AuthType() string { return "pallium cluster" }

// Info implements credentials.TransportCredentials.
func (proof) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "pallium cluster"}
}

// Clone implements credentials.TransportCredentials.
func (p proof) Clone() credentials.TransportCredentials { return p }

// OverrideServerName implements credentials.TransportCredentials.
func (proof) OverrideServerName(string) error {
	return errors.New("the host of a process is the one that is dialed")
}
