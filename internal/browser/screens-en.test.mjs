import { screens } from './screens.mjs'

screens('en-US', 'doku')
