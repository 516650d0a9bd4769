import { screens } from './screens.mjs'

screens('id-ID', 'xendit')
