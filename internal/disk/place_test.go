package disk

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const mountinfo = `23 27 0:22 / /sys rw,relatime - sysfs sysfs rw
27 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
40 27 8:2 / /srv/my\040data rw,noatime - xfs /dev/sdb1 rw,inode64
41 27 8:1 /part /srv/bound rw - ext4 /dev/sda1 rw,errors=remount-ro
42 27 0:50 / /srv/bound rw,nosuid,nodev - tmpfs tmp\134fs rw,size=4k
nonsense
43 27 0:51
44 27 0:52 / /odd\9 rw master:1 - fuse.odd odd
`

func TestMounts(t *testing.T) {
	mounts := parseMounts(mountinfo)
	if len(mounts) != 6 {
		t.Fatalf("%d mounts: %+v", len(mounts), mounts)
	}
	for _, tc := range []struct{ path, want string }{
		{"/", "ext4 /dev/sda1 / rw,relatime,errors=remount-ro"},
		{"/srv", "ext4 /dev/sda1 / rw,relatime,errors=remount-ro"},
		{"/srv/my data", "xfs /dev/sdb1 / rw,noatime,inode64"},
		{"/srv/my data/a/b", "xfs /dev/sdb1 / rw,noatime,inode64"},
		{"/srv/my database", "ext4 /dev/sda1 / rw,relatime,errors=remount-ro"},
		{"/srv/bound/a", `tmpfs tmp\fs / rw,nosuid,nodev,size=4k`},
		{`/odd\9`, "fuse.odd odd / rw"},
	} {
		m, ok := mountOf(mounts, tc.path)
		if got := fmt.Sprintf("%s %s %s %s", m.kind, m.source, m.root, strings.Join(m.allOptions(), ",")); !ok || got != tc.want {
			t.Errorf("%s lies on %s, want %s", tc.path, got, tc.want)
		}
	}
	if _, ok := mountOf(mounts[:1], "/srv"); ok {
		t.Error("a path that no mount has lies on one")
	}
}

func TestStat(t *testing.T) {
	const fields = "441928 130219 25494914 163351 4998054 614677 711187880 1368363 0 577340 1833027 597380 70 468953144 96117 1906342 205195"
	if c, ok := parseStat(fields); !ok || c != (Counters{Written: 711187880 * 512, Flushes: 1906342}) {
		t.Errorf("%+v, %t", c, ok)
	}
	for _, bad := range []string{"", "1 2 3", strings.Join(strings.Fields(fields)[:15], " "), strings.ReplaceAll(fields, "711187880", "x"), strings.ReplaceAll(fields, "1906342", "x")} {
		if c, ok := parseStat(bad); ok {
			t.Errorf("%q says %+v", bad, c)
		}
	}
}

// TestDevices goes down from a partition, from a logical volume on two disks,
// and to a loop device.
func TestDevices(t *testing.T) {
	const counts = "1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"
	files := map[string]string{
		"/s/block/sda/dev": "8:0", "/s/block/sda/queue/write_cache": "write back", "/s/block/sda/queue/rotational": "1",
		"/s/block/sda/device/model": "Turning 4T", "/s/block/sda/stat": counts, "/s/block/sda/queue/iostats": "1",
		"/s/block/sda/sda1/dev": "8:1", "/s/block/sda/sda1/partition": "1",
		"/s/block/sdb/dev": "8:16", "/s/block/sdb/queue/write_cache": "write through", "/s/block/sdb/stat": counts, "/s/block/sdb/queue/iostats": "0",
		"/s/block/dm-0/dev": "253:0", "/s/block/dm-0/dm/name": "vg-data", "/s/block/dm-0/queue/write_cache": "write back",
		"/s/block/dm-0/stat": counts, "/s/block/dm-0/queue/iostats": "1",
		"/s/block/loop0/dev": "7:0", "/s/block/loop0/loop/backing_file": "/srv/image", "/s/block/loop0/stat": counts, "/s/block/loop0/queue/iostats": "1",
		// A namespace with several paths: they count, and not what is above them.
		"/s/block/nvme0n1/dev": "259:0", "/s/block/nvme0n1/stat": counts, "/s/block/nvme0n1/queue/iostats": "1",
	}
	links := map[string]string{
		"/s/dev/block/8:1": "/s/block/sda/sda1", "/s/dev/block/253:0": "/s/block/dm-0", "/s/dev/block/7:0": "/s/block/loop0",
		"/s/block/dm-0/slaves/sda1": "/s/block/sda/sda1", "/s/block/dm-0/slaves/sdb": "/s/block/sdb",
		"/s/block/sda/mq/0": "", "/s/block/sdb/mq/0": "", "/s/block/loop0/mq/0": "", "/s/dev/block/259:0": "/s/block/nvme0n1",
	}
	s := &sysfs{
		root: "/s",
		read: func(path string) string { return files[path] },
		real: func(path string) string { return links[path] },
		list: func(dir string) (names []string) {
			for _, link := range slices.Sorted(maps.Keys(links)) {
				if filepath.Dir(link) == dir {
					names = append(names, filepath.Base(link))
				}
			}
			return names
		},
	}
	for number, want := range map[string]string{
		"8:1":   "sda1 8:1 on [sda]; sda 8:0 on [] Turning 4T write back turns counts",
		"253:0": "dm-0 253:0 on [sda1 sdb] vg-data write back; sda1 8:1 on [sda]; sda 8:0 on [] Turning 4T write back turns counts; sdb 8:16 on [] write through",
		"7:0":   "loop0 7:0 on [] in /srv/image counts",
		"259:0": "nvme0n1 259:0 on []",
		"0:22":  "",
	} {
		var said []string
		p := Place{Devices: s.devices(number)}
		for _, d := range p.Devices {
			text := fmt.Sprintf("%s %s on %v", d.Name, d.Number, d.On)
			for _, word := range []string{d.Model, d.WriteCache} {
				if word != "" {
					text += " " + word
				}
			}
			if d.Backing != "" {
				text += " in " + d.Backing
			}
			if d.Rotational {
				text += " turns"
			}
			if d.Counts {
				text += " counts"
			}
			said = append(said, text)
		}
		if got := strings.Join(said, "; "); got != want {
			t.Errorf("%s: %s\nwant %s", number, got, want)
		}
		for _, d := range p.Bottom() {
			if d.Name == "sda1" || d.Name == "dm-0" || d.Backing != "" {
				t.Errorf("%s: %s is at the bottom", number, d.Name)
			}
		}
	}
}

func TestMountedAt(t *testing.T) {
	p := Place{MountPoint: "/srv", Root: "/"}
	if !p.MountedAt("/srv") || !p.MountedAt("/srv/") || p.MountedAt("/srv/a") {
		t.Error("a file system is mounted where its mount point is, and nowhere else")
	}
	if p.Root = "/part"; p.MountedAt("/srv") {
		t.Error("a part of a file system is taken for the whole")
	}
}
