// Package config is the one tree of walsvc's settings: the fields of Config and
// their comments are the manual. Load reads them from, in this order,
//
//	flags  >  WALSVC_* environment  >  YAML file  >  defaults
//
// where a setting has the same name everywhere: --tls-cert, WALSVC_TLS_CERT and
// tls-cert. The file is named by --config or WALSVC_CONFIG; a name in it that
// is not a setting is an error. Other WALSVC_* variables are not, since schedulers
// make some up for every service they know: Unknown lists them, for the log.
package config
