package sqlstore_test

import _ "modernc.org/sqlite"
