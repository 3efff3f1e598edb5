package client

import (
	"context"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// Status returns the state of the service's volume, with the verdict of its
// recovery.
func (c *Client) Status(ctx context.Context) (*walsvcv1.GetStatusResponse, error) {
	resp, err := c.adminService.GetStatus(ctx, &walsvcv1.GetStatusRequest{})
	if err != nil {
		return nil, called(err, "get status")
	}
	return resp, nil
}

// ServerInfo returns the service's version and every limit.
func (c *Client) ServerInfo(ctx context.Context) (*walsvcv1.GetServerInfoResponse, error) {
	resp, err := c.adminService.GetServerInfo(ctx, &walsvcv1.GetServerInfoRequest{})
	if err != nil {
		return nil, called(err, "get server info")
	}
	return resp, nil
}
