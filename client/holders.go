package client

import (
	"context"
	"iter"

	walsvcv1 "github.com/walsvc/walsvc/proto/walsvc/v1"
)

// Holders yields what keeps segments from being used again: first what does so for
// the whole volume, then, by the names of the logs that begin with prefix, their
// checkpoints and cursors, and the logs that have neither. It asks for a page at a
// time: what changes meanwhile may or may not be there. After an error it ends.
func (c *Client) Holders(ctx context.Context, prefix string) iter.Seq2[*walsvcv1.Holder, error] {
	return func(yield func(*walsvcv1.Holder, error) bool) {
		req := &walsvcv1.ListHoldersRequest{Prefix: prefix}
		for {
			resp, err := c.adminService.ListHolders(ctx, req)
			if err != nil {
				yield(nil, called(err, "list holders %q", prefix))
				return
			}
			for _, page := range [][]*walsvcv1.Holder{resp.GetVolumeHolders(), resp.GetHolders()} {
				for _, h := range page {
					if !yield(h, nil) {
						return
					}
				}
			}
			if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
				return
			}
		}
	}
}
